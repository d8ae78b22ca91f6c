package recoveryplan_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/recoveryplan"
)

const shopYAML = `
name: shop
shutdownInReverse: true
objective: {rpo: 5m, rto: 30m}
before:
  - name: announce
    script: [announce, --to, everybody]
    only: [planned, unplanned]
groups:
  - name: data
    machines:
      - db1
      - protection: db2
        out: {name: db2-dr, networks: {lan: dr-lan}}
        drill: {networks: {lan: bubble}}
        shutdownTimeout: 5m
    health:
      - {name: sql, machine: db1, tcp: ":5432", timeout: 2m}
    after:
      - {name: check, callback: row-count, onFailure: stop}
  - name: front
    onFailure: stop
    machines: [web1]
    before:
      - {name: go, manual: "Go live?", direction: out}
    health:
      - {name: page, machine: web1, http: "http://:8080/ready"}
after:
  - {name: dns, script: [dns], undo: true, input: {zone: example.org}}
`

func TestDecode(t *testing.T) {
	p, err := recoveryplan.Decode(strings.NewReader(shopYAML))
	require.NoError(t, err)
	require.Equal(t, []dr.ProtectionID{"db1", "db2", "web1"}, p.Machines())
	require.Equal(t, 30*time.Minute, time.Duration(p.Objective.RTO))
	require.Equal(t, "db2-dr", p.Groups[0].Machines[1].Out.Name)
	require.Equal(t, map[string]string{"lan": "bubble"}, p.Groups[0].Machines[1].Drill.Networks)
	require.JSONEq(t, `{"zone":"example.org"}`, string(p.After[0].Input))

	// As JSON, and back: the same plan.
	raw, err := json.Marshal(p)
	require.NoError(t, err)
	q, err := recoveryplan.Decode(strings.NewReader(string(raw)))
	require.NoError(t, err)
	require.Equal(t, p, q)
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"nothing", "", "empty"},
		{"a typing error", "name: a\ngroups: []\nbefor: []", "befor"},
		{"a typing error in a machine", "name: a\ngroups: [{name: g, machines: [{protection: x, nmae: y}]}]", "nmae"},
		{"a duration without a unit", "name: a\nobjective: {rpo: 5}\ngroups: [{name: g, machines: [x]}]", "rpo"},
		{"a duration that is none", "name: a\nobjective: {rpo: soon}\ngroups: [{name: g, machines: [x]}]", `write it as "90s"`},
		{"two documents", "name: a\n---\nname: b", "more than one document"},
		{"no YAML", "\t:", "invalid"},
		{"a list", "[1, 2]", "invalid"},
		{"a key that is no text", "{[1]: 2}", "invalid"},
		{"what Validate refuses", "name: a\ngroups: []", "no groups"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := recoveryplan.Decode(strings.NewReader(c.file))
			require.ErrorIs(t, err, dr.ErrInvalid)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestValidate(t *testing.T) {
	require.NoError(t, shop().Validate())
	action := func(a recoveryplan.Action) func(*recoveryplan.Plan) {
		return func(p *recoveryplan.Plan) { p.Before = []recoveryplan.Action{a} }
	}
	health := func(h recoveryplan.Health) func(*recoveryplan.Plan) {
		return func(p *recoveryplan.Plan) { p.Groups[0].Health = []recoveryplan.Health{h} }
	}
	for _, c := range []struct {
		want  string
		wrong func(*recoveryplan.Plan)
	}{
		{"plan name", func(p *recoveryplan.Plan) { p.Name = "a/b" }},
		{"no groups", func(p *recoveryplan.Plan) { p.Groups = nil }},
		{"8 groups, at most 7", func(p *recoveryplan.Plan) { p.Groups = groups(8, 1) }},
		{"102 machines, at most 100", func(p *recoveryplan.Plan) { p.Groups = groups(2, 51) }},
		{"negative limit", func(p *recoveryplan.Plan) { p.Limits.Groups = -1 }},
		{"has no machines", func(p *recoveryplan.Plan) { p.Groups[0].Machines = nil }},
		{"two groups", func(p *recoveryplan.Plan) { p.Groups[1].Name = "data" }},
		{"a machine is in one", func(p *recoveryplan.Plan) { p.Groups[1].Machines = machines("db1") }},
		{"a machine without a protection", func(p *recoveryplan.Plan) { p.Groups[1].Machines = machines("") }},
		{"on failure", func(p *recoveryplan.Plan) { p.Groups[1].OnFailure = "ask" }},
		{"exactly one of", action(recoveryplan.Action{Name: "a"})},
		{"exactly one of", action(recoveryplan.Action{Name: "a", Manual: "?", Callback: "c"})},
		{"a file in the scripts' folder", action(recoveryplan.Action{Name: "a", Script: []string{"../a"}})},
		{"a file in the scripts' folder", action(recoveryplan.Action{Name: "a", Script: []string{"/bin/sh"}})},
		{"a file in the scripts' folder", action(recoveryplan.Action{Name: "a", Script: []string{`..\a`}})},
		{"flow", action(recoveryplan.Action{Name: "a", Callback: "c", Only: []string{"someday"}})},
		{"direction", action(recoveryplan.Action{Name: "a", Callback: "c", Direction: "up"})},
		{"negative time", action(recoveryplan.Action{Name: "a", Callback: "c", Timeout: -1})},
		{"isn't undone", action(recoveryplan.Action{Name: "a", Manual: "?", Undo: true})},
		{"is not in the group", health(recoveryplan.Health{Name: "h", Machine: "web1", TCP: ":22"})},
		{"names no host", health(recoveryplan.Health{Name: "h", TCP: ":22"})},
		{"is no host:port", health(recoveryplan.Health{Name: "h", TCP: "db1"})},
		{"is no http", health(recoveryplan.Health{Name: "h", HTTP: "ftp://db1"})},
		{"exactly one of", health(recoveryplan.Health{Name: "h"})},
	} {
		t.Run(c.want, func(t *testing.T) {
			p := shop()
			c.wrong(&p)
			err := p.Validate()
			require.ErrorIs(t, err, dr.ErrInvalid)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// The limits are those of the service that is followed, and can be raised.
func TestLimitsCanBeRaised(t *testing.T) {
	p := recoveryplan.Plan{Name: "big", Groups: groups(20, 10), Limits: recoveryplan.Limits{Groups: 20, Machines: 200}}
	require.NoError(t, p.Validate())
}

func groups(n, each int) (all []recoveryplan.Group) {
	for i := range n {
		g := recoveryplan.Group{Name: fmt.Sprintf("g%d", i)}
		for j := range each {
			g.Machines = append(g.Machines, machines(dr.ProtectionID(fmt.Sprintf("m%d-%d", i, j)))...)
		}
		all = append(all, g)
	}
	return all
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(shopYAML))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte(`{"name":"a","groups":[{"name":"g","machines":["x"]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := recoveryplan.Decode(strings.NewReader(string(raw)))
		if err != nil {
			return
		}
		again, err := json.Marshal(p)
		require.NoError(t, err)
		q, err := recoveryplan.Decode(strings.NewReader(string(again)))
		require.NoError(t, err, "%s", again)
		third, err := json.Marshal(q)
		require.NoError(t, err)
		require.JSONEq(t, string(again), string(third))
	})
}
