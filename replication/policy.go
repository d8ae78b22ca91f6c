package replication

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
)

// DefaultInterval is how often a cycle begins where a policy doesn't say, and
// always on the way home.
const DefaultInterval = 5 * time.Minute

// Policy says how often a machine is replicated and how long its points are
// kept, both ways. The way out is its maker's choice. The way home has the one
// fixed policy that is made together with it, and can't be edited: it is told
// by [Policy.Failback], and there is nothing to set. The zero value makes a
// crash-consistent point every five minutes and keeps all.
type Policy struct {
	// Every is how often a cycle begins on the way out; 0: DefaultInterval.
	Every time.Duration
	// Forward is the way out's: retention, how often an application-consistent
	// point is wanted, and the RPO threshold.
	Forward recoverypoint.Policy
}

// Policy72h is that of VMware and physical machines: three days.
func Policy72h() Policy {
	return Policy{Every: DefaultInterval, Forward: recoverypoint.VMwarePolicy()}
}

// Policy24h is that of Hyper-V machines: one day.
func Policy24h() Policy {
	return Policy{Every: DefaultInterval, Forward: recoverypoint.HyperVPolicy()}
}

// Failback returns the policy of the way home.
func (Policy) Failback() recoverypoint.Policy { return recoverypoint.FailbackPolicy() }

// Of returns the policy of a protection's points, and how often a cycle begins:
// the forward one if the machine runs at home, else that of the way home. Until
// a failover is committed the points are those of the direction that it ended.
func (p Policy) Of(d dr.Protection) (recoverypoint.Policy, time.Duration) {
	out := d.AtHome() != (d.State == dr.FailedOver)
	switch {
	case !out:
		return p.Failback(), DefaultInterval
	case p.Every == 0:
		return p.Forward, DefaultInterval
	}
	return p.Forward, p.Every
}

// Validate refuses what can't be kept: retention that makes no sense, cycles
// rarer than the RPO threshold allows, and application-consistent points that
// are wanted more often than there are cycles.
func (p Policy) Validate() error {
	every := p.Every
	if every == 0 {
		every = DefaultInterval
	}
	switch rpo, app := p.Forward.RPO, p.Forward.ApplicationEvery; {
	case every < time.Second:
		return fmt.Errorf("%w: replication policy: a cycle every %v: want a second at least", dr.ErrInvalid, p.Every)
	case rpo > 0 && every > rpo:
		return fmt.Errorf("%w: replication policy: a cycle every %v can't keep an RPO of %v", dr.ErrInvalid, every, rpo)
	case app > 0 && app < every:
		return fmt.Errorf("%w: replication policy: a cycle every %v can't make an application-consistent point every %v", dr.ErrInvalid, every, app)
	}
	return p.Forward.Validate()
}

// Policies are the policies that records name. Every process that replicates
// has its own, as it has its [Sites]. It is read only once it is in use.
//
// "" is the default: Policy72h, unless the set says otherwise. "72h" and "24h"
// are the presets, and are there also if the set says nothing of them. The nil
// set has these alone.
type Policies map[string]Policy

// presets are in every set.
var presets = map[string]func() Policy{"": Policy72h, "72h": Policy72h, "24h": Policy24h}

// Policy returns the policy of that name, or an error that names those there
// are.
func (s Policies) Policy(name string) (Policy, error) {
	if p, ok := s[name]; ok {
		return p, nil
	}
	if p, ok := presets[name]; ok {
		return p(), nil
	}
	known := maps.Clone(s)
	if known == nil {
		known = Policies{}
	}
	for n, p := range presets {
		known[n] = p()
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(known)), func(n string) bool { return n == "" })
	return Policy{}, fmt.Errorf("%w: policy %q; this process knows %q", dr.ErrNotFound, name, names)
}

// Of returns what applies to a protection now, and how often a cycle begins.
func (s Policies) Of(d dr.Protection) (recoverypoint.Policy, time.Duration, error) {
	p, err := s.Policy(d.Policy)
	if err != nil {
		return recoverypoint.Policy{}, 0, fmt.Errorf("protection %s: %w", d.ID, err)
	}
	r, every := p.Of(d)
	return r, every, nil
}

// Validate names the first policy, in order of names, that is not valid.
func (s Policies) Validate() error {
	for _, n := range slices.Sorted(maps.Keys(s)) {
		if err := s[n].Validate(); err != nil {
			return fmt.Errorf("policy %q: %w", n, err)
		}
	}
	return nil
}

// span is a duration as people write it: "72h0m0s".
type span time.Duration

func (d span) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *span) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = span(v)
	return err
}

// writtenPoints is a recoverypoint.Policy with readable durations.
type writtenPoints struct {
	Keep                      span `json:"keep,omitzero"`
	Dense                     span `json:"dense,omitzero"`
	Every                     span `json:"every,omitzero"`
	KeepApplicationConsistent bool `json:"keepApplicationConsistent,omitempty"`
	ApplicationEvery          span `json:"applicationEvery,omitzero"`
	RPO                       span `json:"rpo,omitzero"`
}

func writePoints(p recoverypoint.Policy) writtenPoints {
	return writtenPoints{span(p.Keep), span(p.Dense), span(p.Every), p.KeepApplicationConsistent, span(p.ApplicationEvery), span(p.RPO)}
}

func (w writtenPoints) policy() recoverypoint.Policy {
	return recoverypoint.Policy{Keep: time.Duration(w.Keep), Dense: time.Duration(w.Dense), Every: time.Duration(w.Every),
		KeepApplicationConsistent: w.KeepApplicationConsistent, ApplicationEvery: time.Duration(w.ApplicationEvery), RPO: time.Duration(w.RPO)}
}

type writtenPolicy struct {
	Every    span           `json:"every,omitzero"`
	Forward  writtenPoints  `json:"forward"`
	Failback *writtenPoints `json:"failback,omitempty"`
}

// MarshalJSON writes durations as "5m0s", and shows the failback policy.
func (p Policy) MarshalJSON() ([]byte, error) {
	home := writePoints(p.Failback())
	return json.Marshal(writtenPolicy{Every: span(p.Every), Forward: writePoints(p.Forward), Failback: &home})
}

// UnmarshalJSON reads what MarshalJSON writes. dr.ErrInvalid for fields that it
// doesn't know, a policy that is not valid, and a failback policy other than
// the fixed one, which may be left out.
func (p *Policy) UnmarshalJSON(b []byte) error {
	var w writtenPolicy
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return fmt.Errorf("%w: replication policy: %v", dr.ErrInvalid, err)
	}
	read := Policy{Every: time.Duration(w.Every), Forward: w.Forward.policy()}
	if w.Failback != nil && w.Failback.policy() != read.Failback() {
		return fmt.Errorf("%w: replication policy: the failback policy is made with the forward one and can't be edited; leave it out", dr.ErrInvalid)
	}
	if err := read.Validate(); err != nil {
		return err
	}
	*p = read
	return nil
}
