package hypervtest

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// conn is a connection to a host's WMI.
type conn struct {
	h    *Host
	boot int

	mu     sync.Mutex // held by the call under way, as a connection has one thread
	closed bool
}

// call runs f as a call of the host: with its hooks, while nothing else
// happens there.
func (c *conn) call(ctx context.Context, call Call, f func(h *Host) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return host.ErrClosed
	}
	if err := c.h.hooks.before(ctx, &call); err != nil {
		return err
	}
	err := func() error {
		c.h.s.mu.Lock()
		defer c.h.s.unlock()
		if c.boot != c.h.boots {
			return wmiError(call.Op, rpcUnavailable, "")
		}
		if c.h.opts.NoHyperV {
			return wmiError(call.Op, wbemInvalidNamespace, "")
		}
		if call.Op != "Text" && c.h.hooks.isDenied(call.Target) {
			return wmiError(call.Op, wbemAccessDenied, "")
		}
		c.h.tick()
		return f(c.h)
	}()
	if hook := c.h.hooks.after(call); hook != nil {
		return hook
	}
	return err
}

func (c *conn) Query(ctx context.Context, q string) ([]host.Object, error) {
	parsed, bad := parseWQL(q)
	call := Call{Op: "Query"}
	if bad == nil {
		call.Target = parsed.class.name
	}
	var out []host.Object
	defer func() { c.alter(out) }()
	err := c.call(ctx, call, func(h *Host) error {
		if bad != nil {
			return bad
		}
		for _, o := range h.instances(parsed.class.name, parsed.mayMatch) {
			if !parsed.matches(o.Props) {
				continue
			}
			if parsed.props != nil {
				some := host.Props{}
				for _, p := range parsed.props {
					name, _, _ := parsed.class.prop(p)
					some[name] = o.Props[name]
				}
				o.Props = some
			}
			out = append(out, o)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (c *conn) alter(all []host.Object) {
	for i := range all {
		c.h.hooks.alter(&all[i])
	}
}

func (c *conn) Get(ctx context.Context, path host.Ref) (host.Object, error) {
	var o host.Object
	err := c.call(ctx, Call{Op: "Get", Target: classIn(path)}, func(h *Host) (err error) {
		o, err = h.get(path)
		return err
	})
	if err != nil {
		return host.Object{}, err
	}
	c.h.hooks.alter(&o)
	return o, nil
}

func (c *conn) Associators(ctx context.Context, path host.Ref, assoc, result string) ([]host.Object, error) {
	var out []host.Object
	defer func() { c.alter(out) }()
	err := c.call(ctx, Call{Op: "Associators", Target: result}, func(h *Host) (err error) {
		out, err = h.associators(path, assoc, result)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (c *conn) Text(ctx context.Context, class string, props host.Props) (string, error) {
	var s string
	err := c.call(ctx, Call{Op: "Text", Target: class}, func(*Host) error {
		k := classOf(class)
		if k == nil {
			return wmiError("Text", wbemInvalidClass, class)
		}
		p, err := k.fill("Text", props)
		s = k.text(p)
		return err
	})
	if err != nil {
		return "", err
	}
	return s, nil
}

func (c *conn) TextOf(ctx context.Context, path host.Ref, props host.Props) (string, error) {
	var s string
	err := c.call(ctx, Call{Op: "TextOf", Target: classIn(path)}, func(h *Host) error {
		o, err := h.get(path)
		if err != nil {
			return err
		}
		k := classOf(o.Class)
		p, err := k.fill("TextOf", props)
		if err != nil {
			return err
		}
		all := maps.Clone(o.Props)
		maps.Copy(all, p)
		s = k.text(all)
		return nil
	})
	if err != nil {
		return "", err
	}
	return s, nil
}

func (c *conn) Invoke(ctx context.Context, path host.Ref, name string, in host.Props) (host.Result, error) {
	var out host.Result
	err := c.call(ctx, Call{Op: "Invoke", Target: classIn(path), Method: name}, func(h *Host) error {
		o, err := h.get(path)
		if err != nil {
			return err
		}
		k := classOf(o.Class)
		m := k.methods[name]
		if m == nil {
			return wmiError(name, wbemInvalidMethod, k.name)
		}
		args := host.Props{}
		for p, v := range in {
			typ, ok := m.in[p]
			if !ok {
				return wmiError(name, wbemInvalidParamID, fmt.Sprintf("%s has no parameter %s", name, p))
			}
			if args[p], err = put(typ, v); err != nil {
				return wmiError(name, wbemTypeMismatch, p+": "+err.Error())
			}
		}
		if h.hooks.isDenied(name) {
			out = host.Result{Return: retAccessDenied, Out: host.Props{}}
			return nil
		}
		f := methods[name]
		if f == nil {
			return wmiError(name, wbemFailed, "hypervtest doesn't simulate "+name)
		}
		a := f(h, o, args)
		for p, v := range a.out {
			typ, ok := m.out[p]
			if !ok {
				panic("hypervtest: " + name + " has no out parameter " + p)
			}
			if a.out[p], err = put(typ, v); err != nil {
				panic("hypervtest: " + name + "." + p + ": " + err.Error())
			}
		}
		out = host.Result{Return: a.code, Out: a.out}
		return nil
	})
	if err != nil {
		return host.Result{}, err
	}
	return out, nil
}

func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

// classIn is the class that a path names, for calls' names.
func classIn(path host.Ref) string {
	_, c, _, err := parsePath(path)
	if err != nil {
		return strings.SplitN(string(path), ".", 2)[0]
	}
	return c.name
}
