package main

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/memory"
)

// entry is what has changed at a simulated site, and when.
type entry struct {
	At time.Time `json:"at"`
	memory.Effect
}

// maxEntries bounds the ledger of a site that is simulated for long: the oldest
// go.
const maxEntries = 100_000

// ledger is a simulated platform's own account of what was done to it, whoever
// did it: by it a show sees what happened twice.
type ledger struct {
	mu  sync.Mutex
	all []entry
}

func (l *ledger) enter(e memory.Effect) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) == maxEntries {
		l.all = slices.Delete(l.all, 0, maxEntries/10)
	}
	l.all = append(l.all, entry{time.Now(), e})
}

func (l *ledger) serve(w http.ResponseWriter, _ *http.Request) {
	l.mu.Lock()
	all := slices.Clone(l.all)
	l.mu.Unlock()
	answer(w, http.StatusOK, all)
}
