package main

import (
	"maps"
	"sync"
)

// board is what this worker needs and how each of it is: a nil error is good.
// It is safe for concurrent use.
type board struct {
	mu       sync.Mutex
	parts    map[string]error
	asked    map[string]bool // those whose answer is waited for
	draining bool
}

func newBoard() *board { return &board{parts: map[string]error{}, asked: map[string]bool{}} }

// ask notes that a part is asked how it is; false if it is being asked still.
func (b *board) ask(part string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked[part] {
		return false
	}
	b.asked[part] = true
	return true
}

// answer is what came of it.
func (b *board) answer(part string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.asked, part)
	b.parts[part] = err
}

// silence notes why of all that are being asked still.
func (b *board) silence(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for part := range b.asked {
		b.parts[part] = why
	}
}

func (b *board) set(part string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parts[part] = err
}

func (b *board) drain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.draining = true
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready    bool              `json:"ready"`
	Draining bool              `json:"draining,omitempty"`
	Missing  map[string]string `json:"missing,omitempty"` // why, by part
	Good     []string          `json:"good,omitempty"`
}

// parts are all that was asked, and whether it is good.
func (r readiness) parts() map[string]bool {
	all := map[string]bool{}
	for _, part := range r.Good {
		all[part] = true
	}
	for part := range r.Missing {
		all[part] = false
	}
	return all
}

func (b *board) read() readiness {
	b.mu.Lock()
	parts, draining := maps.Clone(b.parts), b.draining
	b.mu.Unlock()
	r := readiness{Draining: draining, Missing: map[string]string{}}
	for part, err := range sorted(parts) {
		if err != nil {
			r.Missing[part] = err.Error()
		} else {
			r.Good = append(r.Good, part)
		}
	}
	r.Ready = !draining && len(r.Missing) == 0
	return r
}
