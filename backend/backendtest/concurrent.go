package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

var concurrentPromises = []promise{
	{"machines don't disturb each other", func(e *env) {
		const workers = 6
		var wg sync.WaitGroup
		errs := make([]error, workers)
		for w := range workers {
			m := e.machine()
			seed := e.rng.Uint64()
			key := e.key()
			wg.Go(func() { errs[w] = e.cycle(m, key, rand.New(rand.NewPCG(seed, uint64(w)))) })
		}
		wg.Wait()
		for w, err := range errs {
			e.ok(err, "machine %d", w)
		}
	}},
	{"captures of a machine whose guest never rests", func(e *env) {
		m, c := e.running()
		ctx, cancel := context.WithCancel(e.Context())
		guest := make(chan error, 1)
		go func() {
			rng := rand.New(rand.NewPCG(e.h.Seed, 2))
			p := make([]byte, 512)
			for ctx.Err() == nil {
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				if err := e.h.Write(m.ID, diskA, p, 512*rng.Int64N(int64(len(c[diskA]))/512)); err != nil {
					guest <- err
					return
				}
			}
			guest <- nil
		}()
		var before content
		var since dr.Point
		for i := range 20 {
			img := e.capture(m.ID, dr.PointID(fmt.Sprintf("p%d", i)))
			now, err := e.read(img)
			e.ok(err)
			e.sameImage(img, now, "read twice")
			if _, ok := dr.As[dr.ChangeTracker](img); ok && before != nil {
				whole := []span{{diskA, 0, int64(len(c[diskA]))}, {diskB, 0, int64(len(c[diskB]))}}
				e.changes(img, since, before, now, whole)
			}
			before, since = now, img.Point()
			e.ok(img.Close())
			e.ok(e.b.Release(e.Context(), m.ID, since.ID))
		}
		cancel()
		e.ok(<-guest)
	}},
}

// read reads a whole image.
func (e *env) read(img dr.Image) (content, error) {
	c := content{}
	for _, d := range img.Point().Machine.Disks {
		c[d.ID] = make([]byte, d.Size)
		if _, err := img.ReadAt(e.Context(), d.ID, c[d.ID], 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	return c, nil
}

// cycle takes a machine out and home again a few times. It runs in a
// goroutine of its own, so it returns what goes wrong.
func (e *env) cycle(m dr.Machine, key string, rng *rand.Rand) error {
	ctx := e.Context()
	for round := range 4 {
		if err := e.b.Start(ctx, m.ID); err != nil {
			return err
		}
		p := make([]byte, 512*(1+rng.IntN(64)))
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		if err := e.h.Write(m.ID, diskA, p, 512*rng.Int64N(1024)); err != nil {
			return err
		}
		if err := e.b.Stop(ctx, m.ID); err != nil {
			return err
		}
		name := dr.PointID(fmt.Sprintf("round-%d", round))
		r, err := e.place(backend.Placement{Key: key, Machine: m})
		if err != nil {
			return err
		}
		if err := e.move(m.ID, r.ID, name); err != nil {
			return fmt.Errorf("out: %w", err)
		}
		if err := e.b.Start(ctx, r.ID); err != nil {
			return err
		}
		if err := e.h.Write(r.ID, diskB, p[:512], 512*rng.Int64N(16)); err != nil {
			return err
		}
		if err := e.b.Stop(ctx, r.ID); err != nil {
			return err
		}
		if _, err := e.place(backend.Placement{Key: key, Original: m.ID, Machine: m}); err != nil {
			return err
		}
		if err := e.move(r.ID, m.ID, name+"-home"); err != nil {
			return fmt.Errorf("home: %w", err)
		}
		if err := e.b.Remove(ctx, r.ID); err != nil {
			return err
		}
	}
	return nil
}

// move captures one stopped machine and makes another one hold the point.
func (e *env) move(from, to dr.MachineID, name dr.PointID) error {
	ctx := e.Context()
	img, err := e.b.Capture(ctx, from, name, dr.CrashConsistent)
	if err != nil {
		return err
	}
	defer img.Close()
	c, err := e.read(img)
	if err != nil {
		return err
	}
	d, err := e.b.Draft(ctx, to, img.Point())
	if err != nil {
		return err
	}
	defer d.Close()
	for disk, p := range c.all() {
		if _, err := d.WriteAt(ctx, disk, p, 0); err != nil {
			return err
		}
	}
	if err := d.Commit(ctx, img.Point()); err != nil {
		return err
	}
	for disk, want := range c.all() {
		got := make([]byte, len(want))
		if err := e.h.Read(to, disk, got, 0); err != nil {
			return err
		}
		if string(got) != string(want) {
			return fmt.Errorf("disk %s of %s is not what was copied from %s", disk, to, from)
		}
	}
	return e.b.Release(ctx, from, name)
}
