package temporal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// searchAttributes are by which consoles find runs. They stand readable in
// Temporal, whatever the codec.
func searchAttributes() map[string]enums.IndexedValueType {
	return map[string]enums.IndexedValueType{
		flowAttribute.GetName():     flowAttribute.GetValueType(),
		stateAttribute.GetName():    stateAttribute.GetValueType(),
		machinesAttribute.GetName(): machinesAttribute.GetValueType(),
	}
}

// settled is how often in a row a change must be seen before it counts: the
// server's parts learn of it one after the other.
const settled = 3

// RegisterSearchAttributes makes LifeboatFlow and LifeboatState (Keyword) and
// LifeboatMachines (KeywordList), for Options.SearchAttributes, in a namespace of a
// server of one's own, and returns when they can be used. Those that are there
// stay; one of another type is ErrExists. It needs the rights of an
// operator. In Temporal Cloud make them in its console: there, and without
// the rights, ErrNotAllowed or ErrUnsupported if one is missing.
func RegisterSearchAttributes(ctx context.Context, c client.Client, namespace string) error {
	flow, state, machines := flowAttribute.GetName(), stateAttribute.GetName(), machinesAttribute.GetName()
	fail := func(err error) error {
		return &dr.Error{Op: "register search attributes", Site: namespace, Err: err,
			Remedy: fmt.Sprintf("make %s and %s (Keyword) and %s (KeywordList) by hand: `temporal operator search-attribute create`, or Temporal Cloud's console", flow, state, machines)}
	}
	ops := c.OperatorService()
	there, err := ops.ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		return fail(classed(err))
	}
	missing := searchAttributes()
	for name, kind := range missing {
		switch is, ok := there.GetCustomAttributes()[name]; {
		case ok && is != kind:
			return fail(fmt.Errorf("%w: %s is a %s, not a %s", dr.ErrExists, name, is, kind))
		case ok:
			delete(missing, name)
		}
	}
	if len(missing) > 0 {
		_, err := ops.AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing})
		var exists *serviceerror.AlreadyExists // somebody else does the same
		if err != nil && !errors.As(err, &exists) {
			return fail(classed(err))
		}
	}
	// A query that names them all is refused as long as one isn't known.
	query := fmt.Sprintf("%s = 'none' AND %s = 'none' AND %s = 'none'", flow, state, machines)
	err = repeat(ctx, func() error {
		_, err := c.WorkflowService().CountWorkflowExecutions(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: namespace, Query: query})
		return err
	})
	if err != nil {
		return fail(fmt.Errorf("%s: they can't be used yet: %w", slices.Sorted(maps.Keys(searchAttributes())), err))
	}
	return nil
}

// EnsureNamespace makes o.Namespace if it isn't there, on a server of one's
// own, with this retention (0: GoodRetention), and returns when it can be used.
// One that is there keeps its retention if it is longer, and gets this one if
// it is shorter. It needs the rights of an operator.
func EnsureNamespace(ctx context.Context, o ConnectOptions, retention time.Duration) error {
	if retention == 0 {
		retention = GoodRetention
	}
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, o.DialTimeout)
	defer cancel()
	c, err := dial(limit, o)
	if err != nil {
		return err
	}
	defer c.Close()
	s := c.WorkflowService()
	_, err = s.RegisterNamespace(limit, &workflowservice.RegisterNamespaceRequest{Namespace: o.Namespace,
		Description: "runs of Lifeboat", WorkflowExecutionRetentionPeriod: durationpb.New(retention)})
	var exists *serviceerror.NamespaceAlreadyExists
	if err != nil && !errors.As(err, &exists) {
		return o.explain(limit, "make namespace "+o.Namespace, err)
	}
	var keeps time.Duration
	err = repeat(ctx, func() error {
		is, err := s.DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: o.Namespace})
		keeps = is.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration()
		if err == nil { // and the part that lists runs knows it, too
			_, err = s.CountWorkflowExecutions(ctx, &workflowservice.CountWorkflowExecutionsRequest{Namespace: o.Namespace})
		}
		return err
	})
	if err != nil {
		return o.explain(ctx, "use namespace "+o.Namespace, err)
	}
	if keeps >= retention {
		return nil
	}
	_, err = s.UpdateNamespace(limit, &workflowservice.UpdateNamespaceRequest{Namespace: o.Namespace,
		Config: &namespace.NamespaceConfig{WorkflowExecutionRetentionTtl: durationpb.New(retention)}})
	if err != nil {
		return o.explain(limit, "change namespace "+o.Namespace, err)
	}
	return nil
}

// repeat calls f until it has succeeded several times in a row, for half a
// minute at most: so long a server's caches may take.
func repeat(ctx context.Context, f func() error) error {
	const limit, pause = 30 * time.Second, 200 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for good := 0; ; {
		err := f()
		switch {
		case err == nil:
			good++
		case errors.Is(classed(err), dr.ErrNotAllowed):
			return err
		default:
			good = 0
		}
		if good == settled {
			return nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return err
		case <-tick.C:
		}
	}
}

// classed puts errors of the operator's service under ours.
func classed(err error) error {
	var (
		denied  *serviceerror.PermissionDenied
		unknown *serviceerror.Unimplemented
	)
	switch {
	case errors.As(err, &denied), isUnauthenticated(err):
		return fmt.Errorf("%w: %v", dr.ErrNotAllowed, err)
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: %v", dr.ErrUnsupported, err)
	}
	return err
}
