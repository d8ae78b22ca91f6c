package temporal

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/converter"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// unreadable is a client of a server with a run that no driver can go on with.
type unreadable struct {
	moved
	says error
}

func (u *unreadable) QueryWorkflow(context.Context, string, string, string, ...any) (converter.EncodedValue, error) {
	return nil, u.says
}

// One run that can't be driven doesn't keep all others from being served; a
// server that doesn't answer does, as what they need isn't known.
func TestServeBesideARunThatCannotBeAsked(t *testing.T) {
	runs := []listed{{planned: planned{Run: "r"}}}
	for _, says := range []error{serviceerror.NewQueryFailed("no key"), serviceerror.NewWorkflowNotReady("its task fails")} {
		e := engineOf(&unreadable{moved{status: enums.WORKFLOW_EXECUTION_STATUS_RUNNING}, says})
		require.NoError(t, (&serving{e: e, actions: dr.Actions{}}).ableAll(t.Context(), runs))
		_, err := e.Status(t.Context(), "r")
		require.ErrorContains(t, err, "codec's key", "it says what can be done")
	}
	e := engineOf(&unreadable{moved{status: enums.WORKFLOW_EXECUTION_STATUS_RUNNING}, serviceerror.NewPermissionDenied("no", "")})
	require.ErrorIs(t, (&serving{e: e, actions: dr.Actions{}}).ableAll(t.Context(), runs), ErrUnreachable)
}
