package replication_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

func protected(id dr.ProtectionID) dr.Protection {
	p := replication.New(id, dr.Place{Site: "home", Machine: "vm"}, "away")
	p.State = dr.Protected
	return p
}

// rules.md: failback policy fixed at RPO threshold 15 min, retention 24 h,
// app-consistent every 60 min, created with the forward policy and not editable.
func TestFailbackPolicyIsMadeWithTheForwardOneAndFixed(t *testing.T) {
	own := replication.Policy{Every: time.Minute, Forward: recoverypoint.Policy{Keep: time.Hour, RPO: 2 * time.Minute}}
	home := own.Failback()
	require.Equal(t, recoverypoint.Policy{Keep: 24 * time.Hour, ApplicationEvery: time.Hour, RPO: 15 * time.Minute}, home)
	home.Keep = 0
	require.Equal(t, 24*time.Hour, own.Failback().Keep)

	var read replication.Policy
	b, err := json.Marshal(own)
	require.NoError(t, err)
	require.JSONEq(t, `{"every":"1m0s","forward":{"keep":"1h0m0s","rpo":"2m0s"},"failback":{"keep":"24h0m0s","applicationEvery":"1h0m0s","rpo":"15m0s"}}`, string(b))
	require.NoError(t, json.Unmarshal(b, &read))
	require.Equal(t, own, read)
	require.NoError(t, json.Unmarshal([]byte(`{"every":"1m","forward":{"keep":"1h","rpo":"2m"}}`), &read))
	require.Equal(t, own, read)
	require.ErrorIs(t, json.Unmarshal([]byte(`{"forward":{},"failback":{"keep":"48h"}}`), &read), dr.ErrInvalid)
	require.Equal(t, own, read, "what is refused changes nothing")
}

// Every field of a retention policy has its place in the written form.
func TestPolicyIsWrittenWhole(t *testing.T) {
	p := replication.Policy{Every: 2 * time.Minute, Forward: recoverypoint.Policy{Keep: 9 * time.Hour, Dense: time.Hour, Every: 2 * time.Hour,
		KeepApplicationConsistent: true, ApplicationEvery: 4 * time.Hour, RPO: 5 * time.Minute}}
	b, err := json.Marshal(replication.Policies{"own": p})
	require.NoError(t, err)
	var read replication.Policies
	require.NoError(t, json.Unmarshal(b, &read))
	require.Equal(t, replication.Policies{"own": p}, read)
}

func TestWhichPolicyApplies(t *testing.T) {
	set := replication.Policies{"own": {Every: time.Minute, Forward: recoverypoint.Policy{Keep: time.Hour}}}
	p := protected("p")
	for _, c := range []struct {
		rule  string
		name  string
		move  func(*dr.Protection)
		want  recoverypoint.Policy
		every time.Duration
	}{
		{"VMware 72 h is the default", "", func(*dr.Protection) {}, recoverypoint.VMwarePolicy(), 5 * time.Minute},
		{"Hyper-V 24 h", "24h", func(*dr.Protection) {}, recoverypoint.HyperVPolicy(), 5 * time.Minute},
		{"an own one", "own", func(*dr.Protection) {}, recoverypoint.Policy{Keep: time.Hour}, time.Minute},
		{"away from home the failback policy", "own", func(p *dr.Protection) { p.Swap() }, recoverypoint.FailbackPolicy(), 5 * time.Minute},
		{"until commit the points are the forward direction's", "own", func(p *dr.Protection) { p.Swap(); p.State = dr.FailedOver }, recoverypoint.Policy{Keep: time.Hour}, time.Minute},
		{"a failback not committed keeps its own points", "own", func(p *dr.Protection) { p.State = dr.FailedOver }, recoverypoint.FailbackPolicy(), 5 * time.Minute},
	} {
		t.Run(c.rule, func(t *testing.T) {
			p := p
			p.Policy = c.name
			c.move(&p)
			got, every, err := set.Of(p)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			require.Equal(t, c.every, every)
		})
	}
	p.Policy = "gone"
	_, _, err := set.Of(p)
	require.ErrorIs(t, err, dr.ErrNotFound)
	require.ErrorContains(t, err, `["24h" "72h" "own"]`)
}

func TestPoliciesThatCantBeKeptAreRefused(t *testing.T) {
	for _, p := range []replication.Policy{
		{Every: -1},
		{Every: time.Millisecond},
		{Every: 20 * time.Minute, Forward: recoverypoint.VMwarePolicy()},
		{Every: 10 * time.Minute, Forward: recoverypoint.Policy{ApplicationEvery: 5 * time.Minute}},
		{Forward: recoverypoint.Policy{Keep: -1}},
	} {
		require.ErrorIs(t, replication.Policies{"p": p}.Validate(), dr.ErrInvalid, "%+v", p)
	}
	require.NoError(t, replication.Policies{"": {}, "a": replication.Policy72h(), "b": replication.Policy24h()}.Validate())
}
