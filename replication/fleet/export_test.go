package fleet

import "time"

// Current is the epoch under which the shard is held; 0: it isn't.
func (m *Memory) Current(s Shard) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.shards[s]; time.Now().Before(h.until) {
		return h.Epoch
	}
	return 0
}
