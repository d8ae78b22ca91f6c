package vmwaretest

import (
	"context"
	"fmt"
	"iter"
	"net"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/internal/nbd"
)

// NBDExport names a disk as the parameters of nbdkit's vddk plugin do.
type NBDExport struct {
	// VM is the machine ("vm=moref=...").
	VM types.ManagedObjectReference
	// Snapshot, if set, is whose frozen bytes are served, read-only. Without
	// it the machine must be off, and its disk can be written.
	Snapshot types.ManagedObjectReference
	// File is the disk's backing as the machine or the snapshot names it.
	File string
}

// ServeNBD serves a disk over NBD as the default export until ctx ends, in
// place of nbdkit with the vddk plugin; it returns nil then. It closes
// l. Writes are tracked like a guest's, and while they are possible the machine
// can't be powered on and nobody else can open the disk for writing. See [Simulator.WriteRaw] for a real nbdkit.
func (s *Simulator) ServeNBD(ctx context.Context, l net.Listener, e NBDExport) error {
	d, release, err := s.device(e)
	if err != nil {
		l.Close()
		return fmt.Errorf("vmwaretest: serve %q of %s over NBD: %w", e.File, e.VM.Value, err)
	}
	defer release()
	defer s.traffic.open(NBD)()
	server := &nbd.Server{Exports: []nbd.Export{{Device: d, ReadOnly: e.Snapshot.Value != ""}}}
	return server.Serve(ctx, l)
}

// device opens an export; the machine is held until release.
func (s *Simulator) device(e NBDExport) (d *nbdDevice, release func(), err error) {
	v := s.VM(e.VM)
	if v == nil {
		return nil, nil, fmt.Errorf("no such machine")
	}
	turn := v.queue() // a machine that is starting is not off
	turn.wait()
	defer turn.leave()
	name := canonical(e.File)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Snapshot.Value != "" {
		for _, f := range v.snapshots[e.Snapshot] {
			if f.file.name == name {
				return &nbdDevice{s, f.content, f.file.track}, func() {}, nil
			}
		}
		return nil, nil, ErrNoDisk
	}
	if v.on {
		return nil, nil, fmt.Errorf("the file is locked: the machine is running")
	}
	for key, f := range v.disks {
		if f.name == name {
			if v.readOnly[key] {
				return nil, nil, fmt.Errorf("disk %d is attached as nonpersistent", key)
			}
			if f.writing {
				return nil, nil, fmt.Errorf("the file is locked: somebody else has it open for writing")
			}
			v.exports++
			f.writing = true
			return &nbdDevice{s, f.content, f.track}, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				v.exports--
				f.writing = false
			}, nil
		}
	}
	return nil, nil, ErrNoDisk
}

type nbdDevice struct {
	s       *Simulator
	content *content
	track   *tracker
}

func (d *nbdDevice) Size() int64 { return d.content.Size() }

func (d *nbdDevice) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	n, err := d.content.ReadAt(p, off)
	d.s.traffic.add(NBD, int64(n), 0)
	return n, err
}

func (d *nbdDevice) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	if err := d.s.writeTracked(d.content, d.track, p, off); err != nil {
		return 0, err
	}
	d.s.traffic.add(NBD, 0, int64(len(p)))
	return len(p), nil
}

// writeTracked writes under the sequence of the moment: a snapshot comes before
// or after it, never between.
func (s *Simulator) writeTracked(c *content, t *tracker, p []byte, off int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.writeAt(p, off, t.seq)
}

func (d *nbdDevice) Flush(context.Context) error { return nil }

// Extents tells what was never written; the rest counts as data.
func (d *nbdDevice) Extents(_ context.Context, off, n int64) iter.Seq2[nbd.Extent, error] {
	return func(yield func(nbd.Extent, error) bool) {
		at, end := off, off+n
		for a := range d.content.written(1, off) {
			if a.off >= end {
				break
			}
			if a.off > at && !yield(nbd.Extent{Off: at, Len: a.off - at, Hole: true, Zero: true}, nil) {
				return
			}
			at = max(at, a.off+a.n)
		}
		if at < end {
			yield(nbd.Extent{Off: at, Len: end - at, Hole: true, Zero: true}, nil)
		}
	}
}
