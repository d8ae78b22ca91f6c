package temporal

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
)

// What an offer came to says whether its action was called; in doubt it was.
func TestTakenUp(t *testing.T) {
	lost := func(kind enums.TimeoutType, details ...any) error { return sdk.NewTimeoutError(kind, nil, details...) }
	var s testsuite.WorkflowTestSuite
	env := s.NewTestActivityEnvironment()
	env.RegisterActivityWithOptions(func(context.Context, offer) (outcome, error) { return outcome{}, nil }, activity.RegisterOptions{Name: stepName})
	_, unreadable := env.ExecuteActivity(stepName, "no offer")
	require.Error(t, unreadable)
	for name, c := range map[string]struct {
		out  outcome
		err  error
		want bool
	}{
		"it says so":                          {out: outcome{Kind: outcomeDone, Begun: true}, want: true},
		"stopped before":                      {out: outcome{Kind: outcomeStopped}},
		"declined":                            {out: outcome{Kind: outcomeDeclined}},
		"withdrawn before a worker had it":    {err: sdk.NewCanceledError()},
		"nobody took it up":                   {err: lost(enums.TIMEOUT_TYPE_SCHEDULE_TO_START)},
		"lost before it beat":                 {err: lost(enums.TIMEOUT_TYPE_HEARTBEAT)},
		"lost before it began":                {err: lost(enums.TIMEOUT_TYPE_HEARTBEAT, beat{Step: "s", Offer: 7})},
		"lost after it began":                 {err: lost(enums.TIMEOUT_TYPE_HEARTBEAT, beat{Step: "s", Offer: 7, Begun: true}), want: true},
		"the beat is of another":              {err: lost(enums.TIMEOUT_TYPE_HEARTBEAT, beat{Step: "s", Offer: 6, Begun: true})},
		"failed in Temporal's console":        {err: sdk.NewApplicationError("failed by hand", ""), want: true},
		"its outcome can't be written":        {err: errors.New("too large"), want: true},
		"the worker can't read what it is of": {err: unreadable},
	} {
		require.Equal(t, c.want, takenUp(7, c.out, c.err), name)
	}
}
