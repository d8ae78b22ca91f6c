package fleet

import (
	"context"
	"encoding/json"
	"time"
)

// Current is the epoch under which the shard is held; 0: it isn't.
func (m *Memory) Current(s Shard) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.shards[s]; time.Now().Before(h.until) {
		return h.Epoch
	}
	return 0
}

// Newest is the epoch of the shard's last holding.
func (m *Memory) Newest(s Shard) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shards[s].Epoch
}

// kept is how Memory is written down.
type kept struct {
	Generation uint64
	Layout     string
	Members    map[string]Member
	Alive      map[string]time.Time
	Shards     map[Shard]Lease
	Until      map[Shard]time.Time
}

// MarshalJSON lets tests keep it in a file.
func (m *Memory) MarshalJSON() ([]byte, error) {
	k := kept{m.generation, m.layout, map[string]Member{}, map[string]time.Time{}, map[Shard]Lease{}, map[Shard]time.Time{}}
	for id, w := range m.members {
		k.Members[id], k.Alive[id] = w.Member, w.until
	}
	for s, h := range m.shards {
		k.Shards[s], k.Until[s] = h.Lease, h.until
	}
	return json.Marshal(k)
}

// UnmarshalJSON reads it back.
func (m *Memory) UnmarshalJSON(b []byte) error {
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return err
	}
	m.generation, m.layout, m.members, m.shards = k.Generation, k.Layout, map[string]living{}, map[Shard]held{}
	for id, w := range k.Members {
		m.members[id] = living{w, k.Alive[id]}
	}
	for s, l := range k.Shards {
		m.shards[s] = held{l, k.Until[s]}
	}
	return nil
}

// Begin begins something under a hold, as a cycle does.
func Begin(h *Hold) (context.Context, func(), error) { return h.begin(context.Background(), "") }
