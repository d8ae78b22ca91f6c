package readiness_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/readiness"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// reacher is a platform that tells how one gets in.
type reacher struct {
	*memory.Backend
	reach backend.Reach
	shot  backend.Evidence
	found []backend.Problem
}

func (r reacher) Unwrap() any { return r.Backend }
func (r reacher) Reach(context.Context, dr.MachineID, string, ...int) (backend.Reach, error) {
	return r.reach, nil
}
func (r reacher) Probe(context.Context, dr.MachineID) (backend.Evidence, error) { return r.shot, nil }
func (r reacher) Check(context.Context) ([]backend.Problem, error)              { return r.found, nil }

func TestEverySentenceAfterAFailover(t *testing.T) {
	is := func(f backend.Fact) backend.Reach {
		return backend.Reach{Running: f, PublicAddress: f, Allowed: map[int]backend.Fact{3389: f, 22: f}}
	}
	for _, c := range []struct{ sentence, code string }{
		{"If you can't connect, check that the VM is running", "after-running"},
		{"Add a public IP address for the VM", "after-public-address"},
		{"Windows: rules must allow incoming connections to the RDP port", "after-rule-3389"},
		{"Linux: rules need to allow incoming connections to the SSH port", "after-rule-22"},
	} {
		t.Run(c.sentence, func(t *testing.T) {
			result := func(f backend.Fact) readiness.Result {
				return find(t, readiness.JudgeAccess(is(f), readiness.Internet, []int{3389, 22}), c.code).Result
			}
			require.Equal(t, readiness.Passed, result(yes))
			require.Equal(t, readiness.Failed, result(no))
			require.Equal(t, readiness.Unknown, result(backend.Fact{}))
		})
	}
	require.Equal(t, readiness.NotApplicable, find(t, readiness.JudgeAccess(is(no), readiness.VPN, nil), "after-public-address").Result)
}

func TestAfterAsksThePlatformAndDials(t *testing.T) {
	m := memory.New(memory.Options{})
	require.NoError(t, m.Add(dr.Machine{ID: "r", OS: "windows", Power: dr.On, Disks: []dr.Disk{{ID: "d", Size: 1 << 20}}}))
	b := reacher{Backend: m, shot: backend.Evidence{Kind: "screenshot", What: "a screen", Data: []byte("PNG")},
		reach: backend.Reach{Running: yes, PublicAddress: backend.Fact{Answer: backend.Yes, Detail: "203.0.113.9"}, Allowed: map[int]backend.Fact{3389: yes}}}
	e := &replication.Env{Sites: replication.Sites{"azure": {Backend: b}}}
	var dialled []string
	var refuse error
	o := readiness.AfterOptions{Via: readiness.Internet, Dial: func(_ context.Context, _, a string) (net.Conn, error) {
		dialled = append(dialled, a)
		here, there := net.Pipe()
		return here, errors.Join(refuse, there.Close())
	}}
	checks, seen, err := readiness.After(t.Context(), e, dr.Place{Site: "azure", Machine: "r"}, o)
	require.NoError(t, err)
	require.True(t, readiness.Ready(checks))
	require.Equal(t, []byte("PNG"), seen.Data)
	require.Equal(t, []string{"203.0.113.9:3389"}, dialled)
	require.Equal(t, readiness.Passed, find(t, checks, "after-answers-3389").Result)
	require.Equal(t, readiness.Passed, find(t, checks, "after-screenshot").Result)

	refuse = errors.New("refused")
	checks, _, err = readiness.After(t.Context(), e, dr.Place{Site: "azure", Machine: "r"}, o)
	require.NoError(t, err)
	require.Equal(t, readiness.Failed, find(t, checks, "after-answers-3389").Result)

	e.Sites["azure"] = replication.Site{Backend: m} // which tells nothing of the way in
	checks, _, err = readiness.After(t.Context(), e, dr.Place{Site: "azure", Machine: "r"}, o)
	require.NoError(t, err)
	require.Equal(t, readiness.Passed, find(t, checks, "after-running").Result)
	require.Equal(t, readiness.Unknown, find(t, checks, "after-rule-3389").Result)
	require.Equal(t, readiness.Unknown, find(t, checks, "after-screenshot").Result)
	require.Equal(t, readiness.Unknown, find(t, checks, "after-answers-3389").Result)
}
