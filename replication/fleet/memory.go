package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Memory keeps leases in a process: for tests, and for a program that is a
// fleet of one. The zero value is ready.
type Memory struct {
	mu         sync.Mutex
	generation uint64
	layout     string
	members    map[string]living
	shards     map[Shard]held
}

// living is a member and how long it is heard of.
type living struct {
	Member
	until time.Time
}

// held is a shard's last lease; until is zero if it was given back.
type held struct {
	Lease
	until time.Time
}

var _ Leases = (*Memory)(nil)

// Renew is Leases'.
func (m *Memory) Renew(ctx context.Context, who Member) (View, error) {
	if err := ctx.Err(); err != nil {
		return View{}, err
	}
	if who.ID == "" || who.TTL <= 0 {
		return View{}, fmt.Errorf("fleet: %w: member %q with a TTL of %v", dr.ErrInvalid, who.ID, who.TTL)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	switch {
	case who.Generation > m.generation || m.layout == "":
		m.generation, m.layout = who.Generation, who.Layout
	case who.Generation == m.generation && who.Layout != m.layout:
		return View{}, fmt.Errorf("fleet: %w: worker %s has another layout than the fleet under generation %d", dr.ErrConflict, who.Name, who.Generation)
	}
	if m.members == nil {
		m.members = map[string]living{}
	}
	who.Sites, who.Shards = slices.Clone(who.Sites), maps.Clone(who.Shards)
	for s, h := range m.shards {
		if h.Member == who.ID && now.Before(h.until) {
			h.until = now.Add(who.TTL)
			m.shards[s] = h
		}
	}
	m.members[who.ID] = living{who, now.Add(who.TTL)}
	return m.view(now), nil
}

// Take is Leases'.
func (m *Memory) Take(ctx context.Context, member string, shards []Shard) ([]Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	who, ok := m.members[member]
	switch {
	case !ok || !now.Before(who.until):
		return nil, fmt.Errorf("fleet: %w: worker %s is not heard of any more", dr.ErrFenced, member)
	case who.Generation < m.generation:
		return nil, fmt.Errorf("fleet: %w: worker %s is of generation %d, the fleet of %d", dr.ErrFenced, member, who.Generation, m.generation)
	}
	for _, h := range m.shards {
		if h.Generation != m.generation && now.Before(h.until) {
			return nil, nil
		}
	}
	if m.shards == nil {
		m.shards = map[Shard]held{}
	}
	var given []Lease
	for _, s := range shards {
		h := m.shards[s]
		if now.Before(h.until) {
			continue
		}
		h.Lease = Lease{Shard: s, Member: member, Epoch: NextEpoch(h.Epoch, now), Generation: who.Generation, Since: now}
		h.until = now.Add(who.TTL)
		m.shards[s] = h
		h.Left = who.TTL
		given = append(given, h.Lease)
	}
	if len(given) > 0 {
		for s, h := range m.shards {
			if h.Generation != m.generation {
				h.Epoch, h.Generation = h.Epoch+1, m.generation
				m.shards[s] = h
			}
		}
	}
	return given, nil
}

// Release is Leases'.
func (m *Memory) Release(ctx context.Context, member string, shards []Shard) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range shards {
		m.release(member, s)
	}
	return nil
}

// Leave is Leases'.
func (m *Memory) Leave(ctx context.Context, member string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.shards {
		m.release(member, s)
	}
	delete(m.members, member)
	return nil
}

func (m *Memory) release(member string, s Shard) {
	if h, ok := m.shards[s]; ok && h.Member == member {
		h.Member, h.until = "", time.Time{}
		m.shards[s] = h
	}
}

// View is Leases'.
func (m *Memory) View(ctx context.Context) (View, error) {
	if err := ctx.Err(); err != nil {
		return View{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view(time.Now()), nil
}

func (m *Memory) view(now time.Time) View {
	v := View{Time: now, Generation: m.generation, Layout: m.layout}
	for id, w := range m.members {
		if !now.Before(w.until) {
			delete(m.members, id)
			continue
		}
		v.Members = append(v.Members, w.Member)
	}
	for _, h := range m.shards {
		if now.Before(h.until) {
			h.Left = h.until.Sub(now)
			v.Leases = append(v.Leases, h.Lease)
		}
	}
	slices.SortFunc(v.Members, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(v.Leases, func(a, b Lease) int { return strings.Compare(string(a.Shard), string(b.Shard)) })
	return v
}
