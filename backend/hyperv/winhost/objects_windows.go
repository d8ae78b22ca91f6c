package winhost

import (
	"context"
	"errors"
	"maps"
	"slices"

	ole "github.com/go-ole/go-ole"
	cim "github.com/microsoft/wmi/pkg/wmiinstance"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// Codes that are told apart here (winerror.h, wbemcli.h).
const (
	notImplemented = 0x80004001 // E_NOTIMPL
	notFound       = 0x80041002 // WBEM_E_NOT_FOUND
	invalidMethod  = 0x8004102E // WBEM_E_INVALID_METHOD
)

// Query is [host.Conn]'s.
func (c *conn) Query(ctx context.Context, wql string) ([]host.Object, error) {
	return do(ctx, c, "query", true, func(s *session) ([]host.Object, error) {
		enum, err := s.wmi.PerformRawQuery(wql)
		if err != nil {
			return nil, err
		}
		defer enum.Release()
		var found []host.Object
		err = drain(ctx, enum, func(d *ole.IDispatch) error {
			o, err := s.read(ctx, d)
			found = append(found, o)
			return err
		})
		return found, err
	})
}

// Get is [host.Conn]'s.
func (c *conn) Get(ctx context.Context, path host.Ref) (host.Object, error) {
	return do(ctx, c, "get", true, func(s *session) (host.Object, error) {
		o, err := s.wmi.GetInstance(string(path))
		if err != nil {
			return host.Object{}, err
		}
		defer o.Close()
		return s.read(ctx, o.GetIDispatch())
	})
}

// Associators is [host.Conn]'s. The library's GetAssociated takes an error in
// the midst of a list for its end.
func (c *conn) Associators(ctx context.Context, path host.Ref, assoc, result string) ([]host.Object, error) {
	return do(ctx, c, "associators", true, func(s *session) ([]host.Object, error) {
		o, err := s.wmi.GetInstance(string(path))
		if err != nil {
			return nil, err
		}
		defer o.Close()
		set, err := object(o.GetIDispatch(), "Associators_", ole.DISPATCH_METHOD, assoc, result)
		if err != nil {
			return nil, err
		}
		defer set.Clear()
		var found []host.Object
		err = each(ctx, set.ToIDispatch(), func(d *ole.IDispatch) error {
			o, err := s.read(ctx, d)
			found = append(found, o)
			return err
		})
		return found, err
	})
}

// Text is [host.Conn]'s.
func (c *conn) Text(ctx context.Context, class string, props host.Props) (string, error) {
	return do(ctx, c, "text of "+class, true, func(s *session) (string, error) {
		k, err := s.wmi.GetClass(class)
		if err != nil {
			return "", err
		}
		defer k.Close()
		o, err := k.MakeInstance()
		if err != nil {
			return "", err
		}
		defer o.Close()
		return text(o, props)
	})
}

// TextOf is [host.Conn]'s. The object is a copy in this process: nothing of it is
// put back.
func (c *conn) TextOf(ctx context.Context, path host.Ref, props host.Props) (string, error) {
	return do(ctx, c, "text", true, func(s *session) (string, error) {
		o, err := s.wmi.GetInstance(string(path))
		if err != nil {
			return "", err
		}
		defer o.Close()
		return text(o, props)
	})
}

func text(o *cim.WmiInstance, props host.Props) (string, error) {
	if err := set(o.GetIDispatch(), props); err != nil {
		return "", err
	}
	xml, err := o.EmbeddedXMLInstance()
	if err == nil && xml == "" {
		err = errors.New("the object has no text")
	}
	return xml, err
}

// set puts all properties, in the order of their names. The library's
// SetProperty writes to the process's log, and knows strings and numbers only.
func set(d *ole.IDispatch, props host.Props) error {
	for _, name := range slices.Sorted(maps.Keys(props)) {
		if err := put(d, name, props[name]); err != nil {
			return err
		}
	}
	return nil
}

// read makes plain data of an object.
func (s *session) read(ctx context.Context, d *ole.IDispatch) (host.Object, error) {
	var o host.Object
	props, err := s.props(ctx, d)
	if err != nil {
		return o, err
	}
	o.Props = props
	if len(s.names) > 0 {
		o.Path, o.Class = host.Ref(props.String("__PATH")), props.String("__CLASS")
		return o, nil
	}
	path, err := object(d, "Path_", ole.DISPATCH_PROPERTYGET)
	if err != nil {
		return o, err
	}
	defer path.Clear()
	full, err := value(path.ToIDispatch(), "Path")
	if err != nil {
		return o, err
	}
	class, err := value(path.ToIDispatch(), "Class")
	if err != nil {
		return o, err
	}
	text, _ := full.(string)
	o.Path = host.Ref(text)
	o.Class, _ = class.(string)
	return o, nil
}

// props reads all properties of an object.
func (s *session) props(ctx context.Context, d *ole.IDispatch) (host.Props, error) {
	set, err := object(d, "Properties_", ole.DISPATCH_PROPERTYGET)
	if err != nil {
		return nil, err
	}
	defer set.Clear()
	if len(s.names) > 0 {
		return s.named(set.ToIDispatch())
	}
	props := host.Props{}
	err = each(ctx, set.ToIDispatch(), func(p *ole.IDispatch) error {
		name, err := value(p, "Name")
		if err != nil {
			return err
		}
		text, ok := name.(string)
		if !ok {
			return errors.New("a property without a name")
		}
		props[text], err = property(p)
		return err
	})
	return props, err
}

// named reads the properties that have a name of the session's.
func (s *session) named(set *ole.IDispatch) (host.Props, error) {
	props := host.Props{}
	for _, name := range s.names {
		item, err := object(set, "Item", ole.DISPATCH_METHOD, name)
		if err != nil {
			continue // the object has none of that name
		}
		props[name], err = property(item.ToIDispatch())
		item.Clear()
		if err != nil {
			return nil, err
		}
	}
	return props, nil
}

// property reads the value of an SWbemProperty.
func property(p *ole.IDispatch) (any, error) {
	v, err := value(p, "Value")
	if err != nil {
		return nil, err
	}
	if !negative(v) {
		return v, nil
	}
	// Scripts have no integers without a sign: those from 2^31 on come as
	// negative ones, which the type of the property tells.
	const uint8Type, uint16Type, uint32Type = 17, 18, 19 // WbemCimtypeEnum, wbemdisp.idl
	t, err := value(p, "CIMType")
	if err != nil {
		return nil, err
	}
	bits := map[any]int64{int64(uint8Type): 0xFF, int64(uint16Type): 0xFFFF, int64(uint32Type): 0xFFFFFFFF}[t]
	return unsigned(v, bits), nil
}

func negative(v any) bool {
	switch x := v.(type) {
	case int64:
		return x < 0
	case []any:
		return slices.ContainsFunc(x, negative)
	}
	return false
}

// unsigned cuts negative integers to the bits of their type; 0: they have a sign.
func unsigned(v any, bits int64) any {
	switch x := v.(type) {
	case int64:
		if x < 0 && bits != 0 {
			return x & bits
		}
	case []any:
		for i := range x {
			x[i] = unsigned(x[i], bits)
		}
	}
	return v
}
