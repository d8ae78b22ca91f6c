package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// simBlock is what the simulated trackers know changes by.
const simBlock = 64 << 10

// guests are the machines of a simulated site: each writes a little to its disk
// once an interval, at a phase of its own, as long as it is on. A machine that a
// failover has made here writes as well.
type guests struct {
	platform *counted
	site     string
	write    int64
	seed     uint64
}

func newGuests(b *counted, site string, o simulation, n uint64) (*guests, error) {
	g := &guests{platform: b, site: site, write: o.write, seed: o.seed + n}
	for i := range o.machines {
		id := dr.MachineID(fmt.Sprintf("%s-%05d", site, i))
		m := dr.Machine{ID: id, Name: string(id), Power: dr.On, Disks: []dr.Disk{{ID: "os", Size: o.disk, Boot: true}}}
		if err := b.Add(m); err != nil {
			return nil, err
		}
		random := g.random(id, 0)
		for off := int64(0); off < o.full; off += simBlock {
			if err := b.Write(id, "os", content(random, min(simBlock, o.full-off)), off); err != nil {
				return nil, err
			}
		}
	}
	return g, nil
}

func (g *guests) random(id dr.MachineID, round uint64) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // never fails
	return rand.New(rand.NewPCG(h.Sum64(), g.seed^round<<20))
}

// content is half text-like, half noise: some of it compresses.
func content(r *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	for i := 0; i+8 <= len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64())
	}
	return p
}

// run writes until ctx ends.
func (g *guests) run(ctx context.Context, every time.Duration) {
	const turns = 100 // an interval has
	tick := time.NewTicker(max(every/turns, time.Millisecond))
	defer tick.Stop()
	for n := uint64(0); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		lister, _ := dr.As[backend.Lister](g.platform)
		for m, err := range lister.Machines(ctx) {
			if err != nil {
				return // only because ctx has ended
			}
			if m.Power == dr.On && phase(m.ID)%turns == uint32(n%turns) {
				g.disturb(m, n)
			}
		}
	}
}

func phase(id dr.MachineID) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return h.Sum32()
}

// disturb is what a guest does in an interval: it writes one stretch somewhere.
func (g *guests) disturb(m dr.Machine, round uint64) {
	random := g.random(m.ID, round+1)
	for _, d := range m.Disks {
		n := min(g.write, d.Size)
		off := random.Int64N((d.Size-n)/simBlock+1) * simBlock
		for at := int64(0); at < n; at += simBlock {
			// A machine that was switched off, or removed, meanwhile writes nothing.
			if err := g.platform.Write(m.ID, d.ID, content(random, min(simBlock, n-at)), off+at); err != nil {
				return
			}
		}
	}
}

// counted is a platform that counts how often machines are started: an attempt
// that finds its machine on starts nothing.
type counted struct {
	*memory.Backend

	mu     sync.Mutex
	starts map[dr.MachineID]int
}

// Start implements backend.Target.
func (c *counted) Start(ctx context.Context, id dr.MachineID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.Backend.Machine(ctx, id)
	if err != nil {
		return err
	}
	err = c.Backend.Start(ctx, id)
	if err == nil && m.Power != dr.On {
		c.starts[id]++
	}
	return err
}

func (c *counted) count(id dr.MachineID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.starts[id]
}

// simMachine is a machine as the simulated platform sees it.
type simMachine struct {
	ID      dr.MachineID `json:"id"`
	Name    string       `json:"name,omitempty"`
	Running bool         `json:"running"`
	Key     string       `json:"key,omitempty"`    // of the placement that made it
	Starts  int          `json:"starts,omitempty"` // how often it went from off to on
}

func (g *guests) list(ctx context.Context) (all []simMachine, err error) {
	lister, ok := dr.As[backend.Lister](g.platform)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	for m, err := range lister.Machines(ctx) {
		if err != nil {
			return nil, err
		}
		p, err := g.platform.Placement(m.ID)
		if errors.Is(err, dr.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, simMachine{ID: m.ID, Name: m.Name, Running: m.Power == dr.On, Key: p.Key, Starts: g.platform.count(m.ID)})
	}
	return all, nil
}
