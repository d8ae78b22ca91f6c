package nbd

import (
	"context"
	"errors"
	"fmt"
)

// Listed is an export that a server tells about.
type Listed struct{ Name, Description string }

// List asks the server of o which exports it has; o.Export does not matter. A
// server may have exports that it doesn't list, and may refuse to list any:
// the error then wraps errors.ErrUnsupported if it doesn't know how.
func List(ctx context.Context, o Options) ([]Listed, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	var all []Listed
	n, err := o.negotiated(ctx, func(_ context.Context, n *negotiation) error {
		if !n.fixed {
			return fmt.Errorf("the server is too old to list exports: %w", errors.ErrUnsupported)
		}
		err := n.option(optList, nil, func(kind uint32, data []byte) error {
			if kind != repServer {
				return fmt.Errorf("%w: reply %#x to LIST", errProtocol, kind)
			}
			name, rest, err := cutString(data, "export name")
			if err != nil {
				return err
			}
			l := Listed{name, string(rest)}
			if checkString(l.Description, "description") != nil {
				l.Description = "" // for people; not worth losing the name for
			}
			all = append(all, l)
			return nil
		})
		if err != nil {
			return err
		}
		// Courtesy: the answer, if any, changes nothing.
		_, _ = n.conn.Write(optionHeader{option: optAbort}.append(nil))
		return nil
	})
	if err != nil {
		return nil, err
	}
	n.raw.Close()
	return all, nil
}
