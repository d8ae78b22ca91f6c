package temporal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/serviceerror"
	sdk "go.temporal.io/sdk/temporal"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// ErrUnreachable says that Temporal can't be reached, or doesn't do what it is asked;
// the error says what can be done about it. What was asked may have happened.
var ErrUnreachable = errors.New("no use of the Temporal server")

// sentinels are the errors that cross from the workflow to who asked it, under
// the names that they have there.
var sentinels = map[string]error{
	"lifeboat.invalid":    dr.ErrInvalid,
	"lifeboat.notFound":   dr.ErrNotFound,
	"lifeboat.conflict":   dr.ErrConflict,
	"lifeboat.notAllowed": dr.ErrNotAllowed,
	"lifeboat.busy":       dr.ErrBusy,
	"lifeboat.corrupt":    dr.ErrCorrupt,
}

// refusedType is how a workflow fails whose locks were held by another run: it
// never was a run.
const refusedType = "lifeboat.busy"

// sendable gives an error a name by which said finds its sentinel again.
func sendable(err error) error {
	if err == nil {
		return nil
	}
	return sdk.NewNonRetryableApplicationError(err.Error(), answerOf(err).Kind, nil)
}

// answered is how a query answers with an error of ours: one that it returned
// would lose its name on the way.
type answered struct {
	Kind string `json:"kind,omitempty"` // of sentinels; "": no error
	Msg  string `json:"msg,omitempty"`
}

func answerOf(err error) answered {
	if err == nil {
		return answered{}
	}
	for _, name := range sorted(sentinels) {
		if errors.Is(err, sentinels[name]) {
			return answered{name, err.Error()}
		}
	}
	return answered{"lifeboat.other", err.Error()}
}

func (a answered) err() error {
	if a.Kind == "" {
		return nil
	}
	return &remote{a.Msg, sentinels[a.Kind]}
}

// remote is an error that the workflow answered with.
type remote struct {
	msg  string
	kind error
}

func (r *remote) Error() string { return r.msg }
func (r *remote) Unwrap() error { return r.kind }

// said returns what the workflow answered, or nil if err isn't its answer.
func said(err error) error {
	var a *sdk.ApplicationError
	if !errors.As(err, &a) {
		return nil
	}
	kind := sentinels[a.Type()]
	if kind == nil {
		return nil
	}
	return &remote{a.Message(), kind}
}

// explain names what an error of Temporal's means for who runs this, and is ctx's
// if ctx has ended: Temporal's own say that only in words.
func explain(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	switch ended := ctx.Err(); {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", op, err)
	case errors.Is(ended, context.Canceled):
		return fmt.Errorf("%s: %w", op, ended)
	case ended != nil && !errors.Is(err, ended):
		err = fmt.Errorf("%w: %w", ended, err)
	}
	var (
		namespace   *serviceerror.NamespaceNotFound
		invalidNS   *serviceerror.NamespaceInvalidState
		denied      *serviceerror.PermissionDenied
		unavailable *serviceerror.Unavailable
		deadline    *serviceerror.DeadlineExceeded
		exhausted   *serviceerror.ResourceExhausted
		invalid     *serviceerror.InvalidArgument
	)
	e := &dr.Error{Op: op, Err: fmt.Errorf("%w: %w", ErrUnreachable, err), Off: -1}
	switch {
	case errors.As(err, &namespace):
		e.Remedy = "create the namespace, with a retention of 30 days or more, or name another in the client's options"
	case errors.As(err, &invalidNS):
		e.Remedy = "the namespace is deprecated or deleted: name another in the client's options"
	case errors.As(err, &denied):
		e.Remedy = "the client's certificate or API key must be allowed to write in this namespace"
	case errors.As(err, &invalid):
		e.Err, e.Remedy = fmt.Errorf("%w: %w", dr.ErrInvalid, err), "the server refuses this by its limits"
	case errors.As(err, &exhausted):
		e.Remedy = "the server is at its limits: try again later, or raise the namespace's rate limits"
	case blocked(err):
		e.Remedy = "the drivers can't go on with this run: look at its last workflow task in Temporal's console; what drives it may be older than what started it, or lack the codec's key"
	case errors.As(err, &unavailable), errors.As(err, &deadline), errors.Is(err, context.DeadlineExceeded):
		e.Remedy = "check that the server is up, and that a process with an open engine, and not Options.NoDriver, drives its queue"
	}
	return e
}

// patience is how often something is asked that Temporal was too busy for, each
// time for the ten seconds that its SDK waits.
const patience = 4

// insist asks again what only wasn't answered in time. It must be safe to ask
// twice.
func insist(ctx context.Context, ask func() error) error {
	for n := 1; ; n++ {
		err := ask()
		var (
			deadline    *serviceerror.DeadlineExceeded
			unavailable *serviceerror.Unavailable
			failed      *serviceerror.QueryFailed
			notReady    *serviceerror.WorkflowNotReady // drivers didn't answer in time lately
			reset       *serviceerror.Canceled         // by a proxy, if not by ctx
		)
		wait := 50 * time.Millisecond
		if errors.As(err, &notReady) {
			wait = 3 * time.Second
		}
		late := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &deadline) || errors.As(err, &unavailable) || errors.As(err, &reset)
		if !late && !errors.As(err, &failed) && notReady == nil || n == patience || !pause(ctx, wait) {
			return err
		}
	}
}

// blocked reports whether a run can't be asked because its workflow can't go on.
func blocked(err error) bool {
	var failed *serviceerror.QueryFailed
	var notReady *serviceerror.WorkflowNotReady
	return errors.As(err, &failed) || errors.As(err, &notReady)
}

// gone reports whether Temporal says that there is no such open workflow.
func gone(err error) bool {
	var nf *serviceerror.NotFound
	return errors.As(err, &nf)
}

func notFound(id dr.RunID) error { return fmt.Errorf("run %s: %w", id, dr.ErrNotFound) }
