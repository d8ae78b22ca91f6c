package winhost

import (
	"context"
	"errors"
	"fmt"

	ole "github.com/go-ole/go-ole"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// Invoke is [host.Conn]'s. The library's Execute is not used: it ignores
// parameters that can't be set, and runs the method without them; panics where a
// ReturnValue isn't an int32; must be told the names of what comes out; and
// writes to the process's log.
func (c *conn) Invoke(ctx context.Context, path host.Ref, method string, in host.Props) (host.Result, error) {
	return do(ctx, c, method, false, func(s *session) (host.Result, error) {
		var none host.Result
		o, err := s.wmi.GetInstance(string(path))
		if err != nil {
			return none, err
		}
		defer o.Close()
		name, err := toVariant(method)
		if err != nil {
			return none, err
		}
		defer name.Clear()
		args := []ole.VARIANT{name}
		if len(in) > 0 {
			params, err := parameters(o.GetIDispatch(), method)
			if err != nil {
				return none, err
			}
			defer params.Clear()
			if err := set(params.ToIDispatch(), in); err != nil {
				return none, err
			}
			args = append(args, *params)
		}
		if err := ctx.Err(); err != nil {
			return none, err // the last moment at which nothing has happened
		}
		out, err := invoke(o.GetIDispatch(), "ExecMethod_", ole.DISPATCH_METHOD, args...)
		if err != nil {
			return none, err
		}
		defer out.Clear()
		// From here on the method has run, and its answer is read whoever waits.
		props, err := s.props(context.WithoutCancel(ctx), out.ToIDispatch())
		if err != nil {
			return none, fmt.Errorf("it ran, but its answer can't be read: %w", failed(method, err))
		}
		n, ok := props.Int("ReturnValue")
		if !ok {
			return none, errors.New("it ran, but returned no number")
		}
		delete(props, "ReturnValue")
		return host.Result{Return: uint32(n), Out: props}, nil
	})
}

// parameters makes an empty set of a method's parameters.
func parameters(o *ole.IDispatch, method string) (*ole.VARIANT, error) {
	methods, err := object(o, "Methods_", ole.DISPATCH_PROPERTYGET)
	if err != nil {
		return nil, err
	}
	defer methods.Clear()
	m, err := object(methods.ToIDispatch(), "Item", ole.DISPATCH_METHOD, method)
	var e *host.Error
	if errors.As(err, &e) && e.Code == notFound {
		// The object is there. Without parameters the same mistake has this code.
		return nil, &host.Error{Code: invalidMethod, Detail: e.Detail}
	}
	if err != nil {
		return nil, err
	}
	defer m.Clear()
	class, err := object(m.ToIDispatch(), "InParameters", ole.DISPATCH_PROPERTYGET)
	if err != nil {
		return nil, err
	}
	params, err := object(class.ToIDispatch(), "SpawnInstance_", ole.DISPATCH_METHOD)
	if errors.As(err, &e) && e.Code == notImplemented {
		return class, nil // Wine: the class itself takes the values, and is ours alone
	}
	class.Clear()
	return params, err
}
