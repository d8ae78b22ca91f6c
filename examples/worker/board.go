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
	draining bool
}

func newBoard() *board { return &board{parts: map[string]error{}} }

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
