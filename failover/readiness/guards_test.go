package readiness_test

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover/readiness"
	"github.com/lifeboat-dr/lifeboat/replication"
)

func TestJudgeAtTheEdges(t *testing.T) {
	agent := func(f backend.Fact) backend.Facts {
		return backend.Facts{OS: "windows", Agents: map[string]backend.Fact{"mobility": f}}
	}
	for name, c := range map[string]struct {
		code string
		os   string // what the machine is said to run; the guest says nothing
		f    backend.Facts
		want readiness.Result
	}{
		"no Mobility service":              {"slow-mobility-version", "", agent(no), readiness.NotApplicable},
		"one of an older major":            {"slow-mobility-version", "", agent(backend.Fact{Answer: backend.Yes, Detail: "8.9"}), readiness.Failed},
		"one of a newer major":             {"slow-mobility-version", "", agent(backend.Fact{Answer: backend.Yes, Detail: "10.0"}), readiness.Passed},
		"one whose version is nonsense":    {"slow-mobility-version", "", agent(backend.Fact{Answer: backend.Yes, Detail: "new"}), readiness.Unknown},
		"a leased address, service untold": {"slow-no-dhcp", "", backend.Facts{OS: "windows", DHCP: yes}, readiness.Passed},
		"Linux has no storflt":             {"slow-driver-storflt", "", backend.Facts{OS: "linux"}, readiness.NotApplicable},
		"Linux, by the machine":            {"windows-rdp-enabled", "Linux", backend.Facts{}, readiness.NotApplicable},
		"Windows, by the machine":          {"windows-rdp-enabled", "windows", backend.Facts{RemoteAccess: yes}, readiness.Passed},
		"darwin is no Windows":             {"windows-rdp-enabled", "darwin", backend.Facts{RemoteAccess: yes}, readiness.Unknown},
		"the guest knows better":           {"linux-sshd-at-boot", "windows", backend.Facts{OS: "linux", RemoteAccess: yes}, readiness.Passed},
	} {
		t.Run(name, func(t *testing.T) {
			s := readiness.Subject{Protection: home, Machine: dr.Machine{OS: c.os}, Facts: c.f, As: readiness.VMware}
			require.Equal(t, c.want, find(t, readiness.Judge(s), c.code).Result)
		})
	}
}

func TestJudgeFailbackAtTheEdges(t *testing.T) {
	never := away
	never.State = ""
	require.Equal(t, readiness.Failed, find(t, readiness.JudgeFailback(never, readiness.Plant{}), "failback-protection").Result)
	gone := find(t, readiness.JudgeFailback(away, readiness.Plant{Original: no}), "failback-original")
	require.Equal(t, readiness.Warning, gone.Severity, "an alternate location is another way home")
	alternate := away
	alternate.Standby.Machine = ""
	require.Equal(t, readiness.NotApplicable, find(t, readiness.JudgeFailback(alternate, readiness.Plant{}), "failback-original").Result)
	alone := readiness.Plant{Group: []readiness.Member{{Name: "only"}}}
	require.Equal(t, readiness.NotApplicable, find(t, readiness.JudgeFailback(away, alone), "failback-group-os").Result)
}

// A site that doesn't know the machine away makes the engine's check fail; room
// of which a platform only warns is not known.
func TestFailbackDoubts(t *testing.T) {
	local := memory.New(memory.Options{})
	require.NoError(t, local.Add(dr.Machine{ID: "m"}))
	e := &replication.Env{Sites: replication.Sites{"azure": {Backend: memory.New(memory.Options{})}, "home": {Backend: tight{local}}}}
	checks, err := readiness.Failback(t.Context(), e, away, readiness.Plant{}, 0)
	require.NoError(t, err)
	require.Equal(t, readiness.Failed, find(t, checks, "failback-process-server").Result)
	room := find(t, checks, "failback-room")
	require.Equal(t, readiness.Unknown, room.Result)
	require.Equal(t, "may grow", room.Detail)
}

// tight warns that room may not do.
type tight struct{ *memory.Backend }

func (tight) Room(context.Context, backend.Placement) ([]backend.Problem, error) {
	return []backend.Problem{{Code: "datastore-space", Text: "may grow"}}, nil
}

func TestWarningsAndSilenceOfAPlatform(t *testing.T) {
	e, b := world(t)
	require.NoError(t, b.SetProblems("m", backend.Problem{Code: "slow", Text: "slow"}))
	e.Sites["azure"] = replication.Site{Backend: tight{memory.New(memory.Options{})}}
	checks, err := readiness.Before(t.Context(), e, home, readiness.Options{})
	require.NoError(t, err)
	require.Equal(t, readiness.Warning, find(t, checks, "source-preflight/slow").Severity)
	require.Equal(t, readiness.Warning, find(t, checks, "target-room/datastore-space").Severity)
	require.NoError(t, b.Destroy("m"))
	checks, err = readiness.Before(t.Context(), e, home, readiness.Options{})
	require.NoError(t, err)
	require.Equal(t, readiness.Unknown, find(t, checks, "source-preflight").Result)
	require.False(t, readiness.Ready(checks))
}

// Each way tries its own addresses only, and everybody is who comes by default.
func TestAfterTriesTheAddressesOfTheWay(t *testing.T) {
	b := memory.New(memory.Options{})
	require.NoError(t, b.Add(dr.Machine{ID: "r", Power: dr.Off}))
	w := &wicket{Backend: b}
	e := &replication.Env{Sites: replication.Sites{"azure": {Backend: w}}}
	for via, want := range map[readiness.Via][]string{
		readiness.Internet: {"203.0.113.9:22"}, readiness.VPN: {"10.0.0.4:22"}, readiness.EitherWay: {"203.0.113.9:22", "10.0.0.4:22"},
	} {
		var tried []string
		ctx, cancel := context.WithCancel(t.Context())
		checks, _, err := readiness.After(ctx, e, dr.Place{Site: "azure", Machine: "r"}, readiness.AfterOptions{Via: via, Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			tried = append(tried, address)
			return nil, net.ErrClosed
		}})
		cancel()
		require.NoError(t, err)
		require.Equal(t, want, tried, via)
		require.Equal(t, "Internet", w.from)
		require.Equal(t, readiness.Failed, find(t, checks, "after-running").Result, "the machine is off")
		require.Equal(t, readiness.Unknown, find(t, checks, "after-screenshot").Result, "a screenshot without a picture")
	}
	c := find(t, readiness.JudgeAccess(backend.Reach{PublicAddress: no}, readiness.EitherWay, nil), "after-public-address")
	require.Equal(t, readiness.Warning, c.Severity, "a VPN may do")
}

type wicket struct {
	*memory.Backend
	from string
}

func (w *wicket) Reach(_ context.Context, _ dr.MachineID, from string, _ ...int) (backend.Reach, error) {
	w.from = from
	return backend.Reach{PublicAddress: backend.Fact{Answer: backend.Yes, Detail: "203.0.113.9"}, Private: "10.0.0.4"}, nil
}

func (*wicket) Probe(context.Context, dr.MachineID) (backend.Evidence, error) {
	return backend.Evidence{Kind: "screenshot"}, nil
}
