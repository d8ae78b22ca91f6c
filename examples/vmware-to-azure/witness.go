package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
)

// witness knows every byte that the guests have written, because they tell it
// and not Lifeboat. Of any set of disks it says after which write of which
// guest they are, byte for byte: so it finds a moment that never was, also one
// at which two disks of a machine are not of the same time.
type witness struct {
	mu    sync.Mutex
	lives []*life
	// By the machine's name: what it last started from, and the life that is
	// production, not a drill's.
	boots      map[string]position
	production map[string]*life
}

func newWitness() *witness {
	return &witness{boots: map[string]position{}, production: map[string]*life{}}
}

// life is what a machine did from one start to the next stop.
type life struct {
	id   int
	name string     // the machine's
	from []*content // what its disks held when it started
	gone chan struct{}

	mu  sync.Mutex // held while the guest writes
	log []write
}

// write is a write to a disk. Its bytes are drawn from the life and its number.
type write struct {
	disk     int
	off, len int64
}

// position is a moment of a life: after so many writes.
type position struct {
	Life   int `json:"life"`
	Writes int `json:"writes"`
}

func (p position) String() string { return fmt.Sprintf("life %d, write %d", p.Life, p.Writes) }

// The first disk says where the guest is. It is written last of each round.
const (
	headAt  = 4096
	headLen = 512
	// dataAt is where the guest's own data begins on each disk; before it is
	// the disk's label, and the head.
	dataAt = pageSize
)

// bytes are what write number n (from 1) of the life has written.
func (l *life) bytes(n int, w write) []byte {
	p := make([]byte, w.len)
	if w.disk == 0 && w.off == headAt {
		binary.LittleEndian.PutUint64(p, uint64(l.id))
		binary.LittleEndian.PutUint64(p[8:], uint64(n))
		return p
	}
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(l.id))
	binary.LittleEndian.PutUint64(seed[8:], uint64(n))
	_, _ = rand.NewChaCha8(seed).Read(p) // never fails
	return p
}

func (l *life) position() position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return position{l.id, len(l.log)}
}

// begin notes that a machine starts with these disks.
func (w *witness) begin(name string, from []*content, at position) *life {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := &life{id: len(w.lives), name: name, from: from, gone: make(chan struct{})}
	w.lives = append(w.lives, l)
	w.boots[name] = at
	if w.production[name] == nil {
		w.production[name] = l
	}
	return l
}

func (w *witness) life(id int) (*life, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id < 0 || id >= len(w.lives) {
		return nil, fmt.Errorf("the disks say that they are of life %d, which never was", id)
	}
	return w.lives[id], nil
}

// booted returns the moment that the machine last started from. Unless that
// was for a drill, it leads its life in production from then on.
func (w *witness) booted(name string, drill bool) (position, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, ok := w.boots[name]
	if !ok {
		return at, fmt.Errorf("machine %s has never started", name)
	}
	for _, l := range w.lives {
		if l.name == name && !drill {
			w.production[name] = l
		}
	}
	return at, nil
}

// present is where the machine in production is now.
func (w *witness) present(name string) position {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.production[name].position()
}

// locate reads disks from end to end, and says which moment they are. What it
// returns beside that is their content.
func (w *witness) locate(name string, read reader) (position, []*content, error) {
	head := make([]byte, headLen)
	if err := read(0, head, headAt); err != nil {
		return position{}, nil, err
	}
	at := position{int(binary.LittleEndian.Uint64(head)), int(binary.LittleEndian.Uint64(head[8:]))}
	l, err := w.life(at.Life)
	if err != nil {
		return at, nil, err
	}
	l.mu.Lock()
	log := l.log
	l.mu.Unlock()
	if l.name != name || at.Writes > len(log) {
		return at, nil, fmt.Errorf("the disks of machine %s say that they are %v of machine %s, which has made %d", name, at, l.name, len(log))
	}
	disks := make([]*content, len(l.from))
	for i, c := range l.from {
		disks[i] = c.clone()
	}
	apply := func(n int) { disks[log[n-1].disk].write(l.bytes(n, log[n-1]), log[n-1].off) }
	for n := 1; n <= at.Writes; n++ {
		apply(n)
	}
	// The head is the last write of a round: of the next the first may be there.
	var errs []error
	for {
		err := same(disks, read)
		if err == nil {
			return at, disks, nil
		}
		errs = append(errs, fmt.Errorf("not %v: %w", at, err))
		if at.Writes == len(log) || len(errs) > len(l.from) {
			return at, nil, fmt.Errorf("the disks of machine %s are of no moment that there was: %w", name, errors.Join(errs...))
		}
		at.Writes++
		apply(at.Writes)
	}
}

func same(disks []*content, read reader) error {
	for i, c := range disks {
		if err := c.compare(i, read); err != nil {
			return err
		}
	}
	return nil
}
