package transfer

import (
	"context"
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/enginetest"
)

// table are records in memory.
type table struct {
	mu  sync.Mutex
	all map[dr.ProtectionID][]byte
}

func inMemory() *table { return &table{all: map[dr.ProtectionID][]byte{}} }

func TestTable(t *testing.T) {
	enginetest.Records(t, func(enginetest.T) dr.Records { return inMemory() })
	enginetest.Records(t, func(enginetest.T) dr.Records { return Leaving(inMemory()) })
}

func (m *table) Load(_ context.Context, id dr.ProtectionID) (p dr.Protection, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.load(id)
}

func (m *table) load(id dr.ProtectionID) (p dr.Protection, err error) {
	if m.all[id] == nil {
		return p, dr.ErrNotFound
	}
	return p, json.Unmarshal(m.all[id], &p)
}

func (m *table) put(p dr.Protection) (err error) {
	m.all[p.ID], err = json.Marshal(p)
	return err
}

func (m *table) Save(_ context.Context, p dr.Protection) (dr.Protection, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, _ := m.load(p.ID)
	switch {
	case p.Epoch < was.Epoch:
		return p, dr.ErrFenced
	case p.Version != was.Version:
		return p, dr.ErrConflict
	}
	p.Version++
	if err := m.put(p); err != nil {
		return p, err
	}
	return m.load(p.ID)
}

func (m *table) Import(_ context.Context, p dr.Protection) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, _ := m.load(p.ID)
	switch {
	case p.ID == "" || p.Version == 0:
		return dr.ErrInvalid
	case p.Epoch < was.Epoch:
		return dr.ErrFenced
	case same(p, was):
		return nil
	case p.Version <= was.Version:
		return dr.ErrConflict
	}
	return m.put(p)
}

func (m *table) Protections(context.Context) iter.Seq2[dr.Protection, error] {
	return func(yield func(dr.Protection, error) bool) {
		m.mu.Lock()
		ids := slices.Sorted(maps.Keys(m.all))
		m.mu.Unlock()
		for _, id := range ids {
			if !yield(m.Load(context.Background(), id)) {
				return
			}
		}
	}
}
