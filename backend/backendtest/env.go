package backendtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Disks of every machine that the suite makes: one that ends amid a block of
// sums and of change tracking, and one smaller than a few of them.
const (
	diskA = dr.DiskID("a")
	diskB = dr.DiskID("b")
)

func (e *env) disks() []dr.Disk {
	unit := e.h.SizeUnit
	up := func(n int64) int64 { return (n + unit - 1) / unit * unit }
	return []dr.Disk{
		{ID: diskA, Size: up(1<<20 + 3*512), Boot: true},
		{ID: diskB, Size: up(96<<10 + 512)},
	}
}

// epoch is some time: the suite needs none in particular.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// cleanup outlives the context of a test, which ends before its clean-up.
var cleanup = context.Background()

// content is what the suite knows to be on a machine's disks.
type content map[dr.DiskID][]byte

func (c content) clone() content {
	d := content{}
	for id, p := range c {
		d[id] = bytes.Clone(p)
	}
	return d
}

// all yields the disks in the order of their IDs: what a seed makes must be the
// same each time.
func (c content) all() iter.Seq2[dr.DiskID, []byte] {
	return func(yield func(dr.DiskID, []byte) bool) {
		for _, disk := range slices.Sorted(maps.Keys(c)) {
			if !yield(disk, c[disk]) {
				return
			}
		}
	}
}

func zeros(m dr.Machine) content {
	c := content{}
	for _, d := range m.Disks {
		c[d.ID] = make([]byte, d.Size)
	}
	return c
}

func (e *env) bytes(n int64) []byte {
	p := make([]byte, n+8)
	for i := int64(0); i < n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], e.rng.Uint64()|0x0101010101010101) // no byte is zero
	}
	return p[:n:n]
}

// machine makes an original with zeroed disks, off.
func (e *env) machine() dr.Machine {
	e.Helper()
	id, err := e.h.Machine(e, e.disks())
	e.ok(err)
	m, err := e.b.Machine(e.Context(), id)
	e.ok(err)
	return m
}

// running makes an original that runs and has been written to.
func (e *env) running() (dr.Machine, content) {
	e.Helper()
	m := e.machine()
	e.ok(e.h.Power(m.ID, dr.On))
	c := zeros(m)
	e.scribble(m.ID, c, 8)
	return m, c
}

// span is a range that was written.
type span struct {
	disk     dr.DiskID
	off, end int64
}

// scribble lets the guest write n times at random and keeps c up to date.
func (e *env) scribble(id dr.MachineID, c content, n int) []span {
	e.Helper()
	var spans []span
	for range n {
		disk := []dr.DiskID{diskA, diskB}[e.rng.IntN(2)]
		spans = append(spans, e.guest(id, c, disk, e.rng.Int64N(int64(len(c[disk]))), 1+e.rng.Int64N(9<<10)))
	}
	return spans
}

// guest lets the guest write n bytes at off, less if the disk ends.
func (e *env) guest(id dr.MachineID, c content, disk dr.DiskID, off, n int64) span {
	e.Helper()
	// Guests write whole sectors.
	off -= off % 512
	end := min(off+(n+511)/512*512, int64(len(c[disk])))
	p := e.bytes(end - off)
	e.ok(e.h.Write(id, disk, p, off))
	copy(c[disk][off:], p)
	clear(p) // the harness must not keep it
	return span{disk, off, end}
}

func (e *env) capture(id dr.MachineID, name dr.PointID) dr.Image {
	e.Helper()
	img, err := e.b.Capture(e.Context(), id, name, dr.CrashConsistent)
	e.ok(err)
	e.Cleanup(func() { _ = img.Close() })
	return img
}

// key returns a replica key that no other test, here or elsewhere, uses.
func (e *env) key() string { return "backendtest-" + rand.Text() }

func (e *env) place(p backend.Placement) (backend.Replica, error) {
	if e.h.Place != nil {
		p = e.h.Place(p)
	}
	return e.b.Prepare(e.Context(), p)
}

// prepare finds or makes the replica of m that has the key.
func (e *env) prepare(key string, m dr.Machine) backend.Replica {
	e.Helper()
	r, err := e.place(backend.Placement{Key: key, Machine: m})
	e.ok(err)
	e.Cleanup(func() { _ = e.b.Remove(cleanup, r.ID) })
	return r
}

// original finds m as an original.
func (e *env) original(m dr.Machine) backend.Replica {
	e.Helper()
	r, err := e.place(backend.Placement{Key: "original", Original: m.ID, Machine: m})
	e.ok(err)
	return r
}

func (e *env) draft(id dr.MachineID, p dr.Point) dr.Draft {
	e.Helper()
	d, err := e.b.Draft(e.Context(), id, p)
	e.ok(err)
	e.Cleanup(func() { _ = d.Close() })
	return d
}

func (e *env) write(d dr.Draft, disk dr.DiskID, p []byte, off int64) {
	e.Helper()
	n, err := d.WriteAt(e.Context(), disk, p, off)
	e.ok(err)
	require.Equal(e, len(p), n)
}

// fill writes all of c to the draft and commits it as p.
func (e *env) fill(d dr.Draft, c content, p dr.Point) {
	e.Helper()
	for disk, bytes := range c.all() {
		e.write(d, disk, bytes, 0)
	}
	e.ok(d.Commit(e.Context(), p))
	e.ok(d.Close())
}

// replica makes a replica that holds c as point p.
func (e *env) replica(key string, c content, p dr.Point) backend.Replica {
	e.Helper()
	r := e.prepare(key, p.Machine)
	e.fill(e.draft(r.ID, p), c, p)
	return r
}

// standIn is a point as a machine elsewhere would have it.
func (e *env) standIn(name dr.PointID) (dr.Point, content) {
	e.Helper()
	p := dr.Point{
		ID: name, Time: epoch, Consistency: dr.CrashConsistent,
		Machine: dr.Machine{ID: "elsewhere", Name: "elsewhere", Disks: e.disks(), NICs: []dr.NIC{{ID: "nic0", Network: "production"}}},
		Cursors: map[dr.DiskID]dr.Cursor{diskA: "foreign", diskB: "foreign"},
	}
	c := zeros(p.Machine)
	for _, b := range c.all() {
		copy(b[len(b)/3:], e.bytes(int64(len(b)/3)))
	}
	return p, c
}

// sameImage compares an image with c, byte by byte.
func (e *env) sameImage(img dr.Image, c content, msg string) {
	e.Helper()
	for disk, want := range c.all() {
		got := make([]byte, len(want))
		_, err := img.ReadAt(e.Context(), disk, got, 0)
		if !errors.Is(err, io.EOF) {
			e.ok(err)
		}
		e.sameBytes(want, got, fmt.Sprintf("%s: disk %s of image %s", msg, disk, img.Point().ID))
	}
}

// sameDisks compares a stopped machine's disks with c.
func (e *env) sameDisks(id dr.MachineID, c content, msg string) {
	e.Helper()
	for disk, want := range c.all() {
		got := make([]byte, len(want))
		e.ok(e.h.Read(id, disk, got, 0))
		e.sameBytes(want, got, fmt.Sprintf("%s: disk %s of machine %s", msg, disk, id))
	}
}

// sameBytes says where bytes differ, not what a megabyte of them is.
func (e *env) sameBytes(want, got []byte, what string) {
	e.Helper()
	if bytes.Equal(want, got) {
		return
	}
	for i := range want {
		if want[i] != got[i] {
			e.Errorf("%s: byte %d is %#x, want %#x", what, i, got[i], want[i])
			e.FailNow()
		}
	}
}
