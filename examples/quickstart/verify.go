package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// ownActions are steps of our own, put into Lifeboat's plans by name. An
// operator's would change DNS records, or wait for an approval.
func (w *world) ownActions() dr.Actions {
	return dr.Actions{
		"demo.replicate@1":    w.replicateStep,
		"demo.verify-point@1": w.verifyPoint,
		"demo.verify-disks@1": w.verifyDisks,
		"demo.disaster@1":     w.disaster,
	}
}

func (w *world) replicateStep(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	p, err := w.env.Records.Load(ctx, protection)
	if err != nil {
		return nil, err
	}
	rep, err := w.env.ReplicateAs(ctx, p, replication.PointName(c.Key), dr.CrashConsistent, c.Beat)
	if err != nil {
		return nil, err
	}
	_, err = w.env.Update(ctx, c, protection, func(p *dr.Protection) error {
		p.Last = rep.Point
		return nil
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(rep)
}

// verifyPoint reads a new point back from its vault, every byte of it.
func (w *world) verifyPoint(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	var step string
	if err := json.Unmarshal(c.Input, &step); err != nil {
		return nil, err
	}
	var rep replication.Report
	if err := json.Unmarshal(c.Results[step], &rep); err != nil {
		return nil, err
	}
	p, err := w.env.Records.Load(ctx, protection)
	if err != nil {
		return nil, err
	}
	want, err := witnessOf(w.path("witness"), p.Active.Site, rep.Point)
	if err != nil {
		return nil, err
	}
	img, err := w.sites[p.Standby.Site].vault.Open(ctx, rep.Point.Machine.ID, rep.Point.ID)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	for _, d := range rep.Point.Machine.Disks {
		c.Beat(dr.Progress{What: "reading the point back", Disk: d.ID, Total: d.Size})
		got, err := sum(&diskReader{ctx, img, d, 0})
		if err != nil {
			return nil, err
		}
		if got != want.Disks[d.ID] {
			return nil, dr.Permanent(fmt.Errorf("point %s, disk %s is not what the machine had: SHA-256 %s, want %s", rep.Point.ID, d.ID, got, want.Disks[d.ID]))
		}
	}
	return json.Marshal("every disk is what the machine had")
}

// diskReader reads one disk of an image from its beginning to its end.
type diskReader struct {
	ctx context.Context
	img dr.Image
	d   dr.Disk
	off int64
}

func (r *diskReader) Read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), r.d.Size-r.off)]
	if len(p) == 0 {
		return 0, io.EOF
	}
	n, err := r.img.ReadAt(r.ctx, r.d.ID, p, r.off)
	r.off += int64(n)
	if err == io.EOF && n == len(p) {
		err = nil
	}
	return n, err
}

// verifyDisks compares a machine that is about to start with what the machine
// at the other site had at the chosen point, and checks its file system.
func (w *world) verifyDisks(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	in, err := failover.ReadInput(c)
	if err != nil {
		return nil, err
	}
	pt, err := failover.ChosenPoint(c)
	if err != nil {
		return nil, err
	}
	id := in.To.Machine
	var r backend.Replica
	if ok, err := failover.ReadResult(c, failover.StepPrepare, &r); err != nil {
		return nil, err
	} else if ok {
		id = r.ID
	}
	want, err := witnessOf(w.path("witness"), in.From.Site, pt)
	if err != nil {
		return nil, err
	}
	m, err := w.sites[in.To.Site].host.Machine(ctx, id)
	if err != nil {
		return nil, err
	}
	paths, err := w.sites[in.To.Site].host.Paths(id)
	if err != nil {
		return nil, err
	}
	for i, d := range m.Disks {
		c.Beat(dr.Progress{What: "comparing", Disk: d.ID, Total: d.Size})
		got, err := sumFile(paths[i])
		if err != nil {
			return nil, err
		}
		if got != want.Disks[d.ID] {
			return nil, dr.Permanent(fmt.Errorf("disk %s of %s is not what %s had at point %s: SHA-256 %s, want %s", d.ID, id, in.From.Machine, pt.ID, got, want.Disks[d.ID]))
		}
		if d.ID == rootDisk {
			if err := fsck(paths[i]); err != nil {
				return nil, dr.Permanent(err)
			}
		}
	}
	return json.Marshal("every disk is what the machine had; its file system is clean")
}

// disaster takes the power from the machine at home.
func (w *world) disaster(ctx context.Context, c *dr.Call) (json.RawMessage, error) {
	p, err := w.env.Records.Load(ctx, protection)
	if err != nil {
		return nil, err
	}
	s := w.sites[p.Active.Site]
	return nil, s.guests.powerOff(ctx, physical.Event{Machine: dr.Machine{ID: p.Active.Machine}})
}
