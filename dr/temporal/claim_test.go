package temporal

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// half are claims of which b is held by another.
type half struct {
	dr.Claims
	released int
}

func (h *half) Acquire(_ context.Context, resource, _ string) (uint64, error) {
	if resource == "b" {
		return 0, fmt.Errorf("b: %w: held by another", dr.ErrBusy)
	}
	return 7, nil
}

func (h *half) Release(context.Context, string, string) error {
	h.released++
	return nil
}

// An attempt to claim gives nothing back by itself.
func TestClaimThatIsRefusedGivesNothingBack(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(slog.New(slog.DiscardHandler))
	env := suite.NewTestActivityEnvironment()
	h := &half{}
	c := &claimant{claims: h, c: &line{}, id: "namespace"}
	env.RegisterActivityWithOptions(c.claim, activity.RegisterOptions{Name: claimName})
	for _, locks := range [][]string{{"b", "a"}, {"b"}} {
		v, err := env.ExecuteActivity(claimName, claimInput{Run: "r", Locks: locks})
		require.NoError(t, err)
		var out claimOutcome
		require.NoError(t, v.Get(&out))
		require.Contains(t, out.Busy, "held by another")
		require.Equal(t, len(locks) == 2, out.Held)
		require.Empty(t, out.Epochs)
		require.Zero(t, h.released)
	}
}

// The workflow does, before the run counts as one that never was.
func TestRefusedRunGivesBackWhatItHas(t *testing.T) {
	for _, held := range []bool{true, false} {
		p := newPlay(t, dr.Plan{Flow: "f", Locks: []string{"a", "b"}, Steps: []dr.Step{{ID: "s", Action: "do@1"}}})
		var released []claimInput
		p.env.RegisterActivityWithOptions(new(claimant).claim, activity.RegisterOptions{Name: claimName})
		p.env.RegisterActivityWithOptions(new(claimant).release, activity.RegisterOptions{Name: releaseName})
		p.env.OnActivity(claimName, mock.Anything, mock.Anything).Return(claimOutcome{Busy: "held by another", Held: held}, nil)
		p.env.OnActivity(releaseName, mock.Anything, mock.Anything).Return(func(_ context.Context, in claimInput) error {
			released = append(released, in)
			return nil
		})
		var refused *sdk.ApplicationError
		require.ErrorAs(t, p.run(), &refused)
		require.Equal(t, refusedType, refused.Type())
		require.Equal(t, "held by another", refused.Message())
		if !held {
			require.Empty(t, released)
			continue
		}
		require.Len(t, released, 1)
		require.Equal(t, []string{"a", "b"}, released[0].Locks)
	}
}
