package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// guest stands for the operating system of one running machine: it writes to
// its disks all the time, and tells the tracker as a kernel's would.
type guest struct {
	machine dr.Machine
	files   map[dr.DiskID]*os.File
	regions []region // of the first disk: the blocks of a file in its file system
	tracker *physical.BitmapTracker

	mu     sync.Mutex // held while a write is under way, and while frozen
	frozen bool
	seq    uint64 // writes so far, kept on the second disk
	size   int64  // of the second disk
	stop   chan struct{}
	gone   chan struct{}
	err    error
}

// region is a byte range that the guest may overwrite.
type region struct{ Off, Len int64 }

// pause between two writes of a guest: about 10 MiB/s.
const pause = 3 * time.Millisecond

// boot opens the disks, finds out where it was, and begins to write.
func boot(e physical.Event, regions []region, t *physical.BitmapTracker) (*guest, error) {
	g := &guest{
		machine: e.Machine, files: map[dr.DiskID]*os.File{}, regions: regions, tracker: t,
		stop: make(chan struct{}), gone: make(chan struct{}),
	}
	for i, d := range e.Machine.Disks {
		f, err := os.OpenFile(e.Paths[i], os.O_RDWR, 0)
		if err != nil {
			return nil, errors.Join(err, g.close())
		}
		g.files[d.ID] = f
	}
	fi, err := g.files[dataDisk].Stat()
	if err != nil {
		return nil, errors.Join(err, g.close())
	}
	g.size = fi.Size()
	var head [8]byte
	if _, err := g.files[dataDisk].ReadAt(head[:], 0); err != nil {
		return nil, errors.Join(fmt.Errorf("guest can't read its data disk: %w", err), g.close())
	}
	g.seq = binary.LittleEndian.Uint64(head[:])
	go g.run()
	return g, nil
}

func (g *guest) close() (err error) {
	for _, f := range g.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

func (g *guest) run() {
	defer close(g.gone)
	tick := time.NewTicker(pause)
	defer tick.Stop()
	buf := make([]byte, 64<<10)
	for {
		select {
		case <-g.stop:
			return
		case <-tick.C:
		}
		if g.err = g.write(buf); g.err != nil {
			return
		}
	}
}

// write does one round of work: part of a file, a record of a log, and then
// the number that says it was done.
func (g *guest) write(buf []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seq++
	r := g.regions[rand.IntN(len(g.regions))]
	n := min(r.Len, int64(4<<10)<<rand.IntN(4))
	p := buf[:n]
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rand.Uint64())
	}
	if err := g.put(rootDisk, p, r.Off+rand.Int64N(r.Len-n+1)&^511); err != nil {
		return err
	}
	rec := fmt.Appendf(buf[:0], "%s write %d of machine %s\n", time.Now().UTC().Format(time.RFC3339Nano), g.seq, g.machine.ID)
	if err := g.put(dataDisk, rec, 4096+rand.Int64N(g.size-8192)); err != nil {
		return err
	}
	return g.put(dataDisk, binary.LittleEndian.AppendUint64(nil, g.seq), 0)
}

// put notes the write before it can reach the disk, and when it is there.
func (g *guest) put(disk dr.DiskID, p []byte, off int64) error {
	g.tracker.Mark(g.machine.ID, disk, off, int64(len(p)))
	_, err := g.files[disk].WriteAt(p, off)
	g.tracker.Mark(g.machine.ID, disk, off, int64(len(p)))
	return err
}

// freeze holds all writes until thaw. A second one changes nothing.
func (g *guest) freeze() {
	if !g.frozen {
		g.mu.Lock()
		g.frozen = true
	}
}

func (g *guest) thaw() {
	if g.frozen {
		g.frozen = false
		g.mu.Unlock()
	}
}

func (g *guest) halt() error {
	g.thaw()
	close(g.stop)
	<-g.gone
	return errors.Join(g.err, g.close())
}

// guests are those of one site: the hooks that a physical host calls.
type guests struct {
	site    string
	dir     string // of the witnesses
	regions []region
	tracker *physical.BitmapTracker

	mu sync.Mutex
	m  map[dr.MachineID]*guest
}

func newGuests(site, dir string) *guests {
	return &guests{site: site, dir: dir, tracker: physical.NewBitmapTracker(64 << 10), m: map[dr.MachineID]*guest{}}
}

func (gs *guests) hooks() physical.Hooks {
	return physical.Hooks{
		Start: gs.start, Stop: gs.powerOff, Shutdown: gs.shutdown,
		Freeze: gs.freeze, Thaw: gs.thaw, Probe: gs.probe,
	}
}

func (gs *guests) start(_ context.Context, e physical.Event) error {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.m[e.Machine.ID] != nil {
		return nil
	}
	g, err := boot(e, gs.regions, gs.tracker)
	if err == nil {
		gs.m[e.Machine.ID] = g
	}
	return err
}

func (gs *guests) powerOff(_ context.Context, e physical.Event) error {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.m[e.Machine.ID]
	if g == nil {
		return nil
	}
	delete(gs.m, e.Machine.ID)
	return g.halt()
}

// shutdown is a power off that leaves a witness of what the disks hold.
func (gs *guests) shutdown(ctx context.Context, e physical.Event) error {
	if err := gs.powerOff(ctx, e); err != nil {
		return err
	}
	return gs.testify(e)
}

// freeze holds the guest and leaves a witness of what its disks hold.
func (gs *guests) freeze(_ context.Context, e physical.Event) error {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if g := gs.m[e.Machine.ID]; g != nil {
		g.freeze()
	}
	return gs.testify(e)
}

func (gs *guests) thaw(_ context.Context, e physical.Event) error {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if g := gs.m[e.Machine.ID]; g != nil {
		g.thaw()
	}
	return nil
}

// probe tells that the guest found its data and goes on from there.
func (gs *guests) probe(_ context.Context, e physical.Event) error {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.m[e.Machine.ID]
	if g == nil {
		return errors.New("the guest doesn't run")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, err := fmt.Fprintf(e.Out, "the guest runs and is at write %d", g.seq)
	return err
}

// haltAll ends all guests, as when the program ends.
func (gs *guests) haltAll() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for id, g := range gs.m {
		_ = g.halt() // the program ends; disks are compared when it starts again
		delete(gs.m, id)
	}
}

// witness is what a machine's disks held at a moment at which nothing could
// write to them, by a reader that knows nothing of Lifeboat.
type witness struct {
	At    time.Time            `json:"at"`
	Disks map[dr.DiskID]string `json:"disks"` // SHA-256
}

func (gs *guests) testify(e physical.Event) error {
	w := witness{Disks: map[dr.DiskID]string{}}
	for i, d := range e.Machine.Disks {
		sum, err := sumFile(e.Paths[i])
		if err != nil {
			return err
		}
		w.Disks[d.ID] = sum
	}
	w.At = time.Now()
	raw, err := json.Marshal(w)
	if err != nil {
		return err
	}
	name := filepath.Join(gs.dir, fmt.Sprintf("%s-%s-%d.json", gs.site, e.Machine.ID, w.At.UnixNano()))
	if err := os.WriteFile(name+".part", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".part", name)
}

// witnessOf finds the witness of a point: the last one before its moment.
func witnessOf(dir, site string, p dr.Point) (witness, error) {
	names, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("%s-%s-*.json", site, p.Machine.ID)))
	if err != nil {
		return witness{}, err
	}
	sort.Strings(names)
	for i := len(names) - 1; i >= 0; i-- {
		raw, err := os.ReadFile(names[i])
		if err != nil {
			return witness{}, err
		}
		var w witness
		if err := json.Unmarshal(raw, &w); err != nil {
			return witness{}, err
		}
		if !w.At.After(p.Time) {
			return w, nil
		}
	}
	return witness{}, fmt.Errorf("no witness of point %s", p.ID)
}

func sumFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return sum(f)
}

func sum(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
