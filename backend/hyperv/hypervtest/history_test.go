package hypervtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
)

// seed is random, or that of LIFEBOAT_SEED.
func seed(t *testing.T) uint64 {
	s := uint64(time.Now().UnixNano())
	if v := os.Getenv("LIFEBOAT_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		require.NoError(t, err)
		s = n
	}
	t.Logf("LIFEBOAT_SEED=%d", s)
	return s
}

// point is a reference point and what the disks held at its moment.
type point struct {
	ref   host.Object
	id    string // "" if nothing was tracked
	bytes []byte
}

// Random histories of a machine: what it reads is what was written last, a
// snapshot holds its moment's bytes, and changes never say too little.
func TestHistories(t *testing.T) {
	start := seed(t)
	for i := range uint64(4) {
		t.Run(fmt.Sprint(i), func(t *testing.T) { history(t, rand.New(rand.NewPCG(start, i))) })
	}
}

func history(t *testing.T, r *rand.Rand) {
	const size = mib
	nodes := hypervtest.NewCluster(t, 2, hypervtest.Options{JobPolls: 1 + r.IntN(3), Granularity: 16 << 10})
	node := []*hv{wrap(t, nodes[0]), wrap(t, nodes[1])}
	at := 0
	vm, err := nodes[0].AddVM(hypervtest.VMSpec{Name: "m", Folder: `C:\ClusterStorage\Volume1\m`, Disks: []hypervtest.DiskSpec{{ID: "d", Size: size}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	model := make([]byte, size)
	var points []point
	checkpoints := map[string][]byte{}
	names := 0
	verify := func() {
		got := make([]byte, len(model))
		require.NoError(t, vm.Read("d", got, 0))
		require.True(t, bytes.Equal(model, got))
	}
	capture := func() (host.Object, []byte) {
		s := node[at].snapshot(vm, 2)
		frozen := bytes.Clone(model)
		path := node[at].files(s.Path)[0]
		d, err := node[at].disks.Open(t.Context(), path, false)
		require.NoError(t, err)
		defer func() { require.NoError(t, d.Close()) }()
		// The guest goes on meanwhile.
		if vm.Running() {
			p := []byte{byte(r.Uint32()) | 1}
			off := r.Int64N(size)
			require.NoError(t, vm.Write("d", p, off))
			copy(model[off:], p)
		}
		got := make([]byte, len(frozen))
		_, err = d.ReadAt(got, 0)
		require.NoError(t, err)
		require.True(t, bytes.Equal(frozen, got), "a snapshot holds its moment's bytes")
		known := 0
		for _, p := range points {
			covered := make([]bool, len(frozen))
			last := int64(0)
			var lost error
			for c, err := range d.Changes(t.Context(), p.id) {
				if err != nil {
					lost = err
					break
				}
				require.GreaterOrEqual(t, c.Off, last)
				require.Positive(t, c.Len)
				last = c.Off + c.Len
				require.LessOrEqual(t, last, int64(len(frozen)))
				for i := c.Off; i < last; i++ {
					covered[i] = true
				}
			}
			if lost != nil {
				require.ErrorIs(t, lost, host.ErrTrackingLost)
				continue
			}
			known++
			for i := range frozen {
				if frozen[i] != p.bytes[i] && !covered[i] {
					t.Fatalf("byte %d changed since %s, and the tracker doesn't say so", i, p.id)
				}
			}
		}
		t.Logf("%d of %d points known, chain %d", known, len(points), vm.ChainLength())
		return s, frozen
	}
	for range 50 {
		switch r.IntN(12) {
		case 0, 1, 2, 3: // the guest writes
			if !vm.Running() {
				require.NoError(t, vm.Start())
			}
			p := make([]byte, 1+r.IntN(50<<10))
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			off := r.Int64N(size - int64(len(p)) + 1)
			require.NoError(t, vm.Write("d", p, off))
			copy(model[off:], p)
		case 4, 5: // a capture that becomes a point
			s, frozen := capture()
			ref := node[at].convert(s)
			p := point{ref: ref, bytes: frozen}
			if ids := ref.Props.Strings("ResilientChangeTrackingIdentifiers"); len(ids) == 1 {
				p.id = ids[0]
			}
			points = append(points, p)
		case 6: // a capture that is given up
			s, _ := capture()
			node[at].do(node[at].service("Msvm_VirtualSystemSnapshotService"), "DestroySnapshot", host.Props{"AffectedSnapshot": s.Path})
		case 7: // an old point goes
			if len(points) > 1 {
				path := host.Ref(bytes.ReplaceAll([]byte(points[0].ref.Path), []byte(nodes[1-at].Name()), []byte(nodes[at].Name())))
				node[at].do(node[at].service("Msvm_VirtualSystemReferencePointService"), "DestroyReferencePoint", host.Props{"AffectedReferencePoint": path})
				points = points[1:]
			}
		case 8: // a person's checkpoint, or back to one
			if len(checkpoints) < 2 {
				names++
				name := fmt.Sprint("c", names)
				require.NoError(t, vm.Checkpoint(name))
				checkpoints[name] = bytes.Clone(model)
				continue
			}
			for name, held := range checkpoints {
				if r.IntN(2) == 0 {
					require.NoError(t, vm.RevertTo(name))
					model = bytes.Clone(held)
				} else {
					require.NoError(t, vm.DeleteCheckpoint(name))
					delete(checkpoints, name)
				}
				break
			}
		case 9: // elsewhere
			require.NoError(t, vm.Migrate(nodes[1-at]))
			at = 1 - at
		case 10: // off, and somebody writes to the file
			vm.PowerOff()
			d, err := node[at].disks.Open(t.Context(), vm.Disks()[0].Path, true)
			if errors.Is(err, host.ErrNotFound) { // the host has just merged it
				d, err = node[at].disks.Open(t.Context(), vm.Disks()[0].Path, true)
			}
			require.NoError(t, err)
			off := r.Int64N(size - 10)
			_, err = d.WriteAt([]byte("0123456789"), off)
			require.NoError(t, err)
			copy(model[off:], "0123456789")
			require.NoError(t, d.Close())
		case 11:
			switch r.IntN(4) {
			case 0:
				nodes[at].Crash()
				node[at].conn = nodes[at].Conn()
			case 1:
				vm.LoseTracking()
			default:
				nodes[at].Inventory()
			}
		}
		verify()
	}
	// In the end everything becomes one file again.
	for _, p := range points {
		path := host.Ref(bytes.ReplaceAll([]byte(p.ref.Path), []byte(nodes[1-at].Name()), []byte(nodes[at].Name())))
		node[at].do(node[at].service("Msvm_VirtualSystemReferencePointService"), "DestroyReferencePoint", host.Props{"AffectedReferencePoint": path})
	}
	for name := range checkpoints {
		require.NoError(t, vm.DeleteCheckpoint(name))
	}
	nodes[at].Inventory()
	require.Equal(t, 1, vm.ChainLength())
	for _, f := range nodes[at].Inventory() {
		require.NotContains(t, f, ".avhdx")
	}
	verify()
}

// Guests write, machines are captured and hosts asked at the same time.
func TestSideBySide(t *testing.T) {
	h := open(t, hypervtest.Options{})
	var wg sync.WaitGroup
	for i := range 3 {
		vm, err := h.AddVM(hypervtest.VMSpec{Name: fmt.Sprint("m", i), Disks: []hypervtest.DiskSpec{{ID: "d", Size: 4 * mib}}})
		require.NoError(t, err)
		require.NoError(t, vm.Start())
		stop := make(chan struct{})
		wg.Go(func() {
			for n := int64(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := vm.Write("d", []byte{byte(n)}, n*4096%(4*mib)); err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			defer close(stop)
			if err := rounds(t, h.Host, vm); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// rounds captures a machine a few times over a connection of its own.
func rounds(t *testing.T, h *hypervtest.Host, vm *hypervtest.VM) error {
	c := h.Conn()
	defer func() { _ = c.Close() }()
	mine := &hv{h, t, c, h.Disks()}
	p := make([]byte, 64<<10)
	for range 5 {
		s := mine.snapshot(vm, 1)
		d, err := mine.disks.Open(t.Context(), mine.files(s.Path)[0], false)
		if err != nil {
			return err
		}
		q := bytes.Clone(p)
		for range 3 {
			if _, err := d.ReadAt(p, 0); err != nil {
				return err
			}
			if _, err := d.ReadAt(q, 0); err != nil {
				return err
			}
			if !bytes.Equal(p, q) {
				return errors.New("a frozen disk changes")
			}
		}
		mine.convert(s)
		if err := d.Close(); err != nil {
			return err
		}
	}
	return nil
}
