package hypervtest

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// put converts a value that goes in to what it comes out as, for a CIM type,
// or says that it doesn't fit.
func put(typ string, v any) (any, error) {
	base, array := strings.CutSuffix(typ, "[]")
	if v == nil {
		return nil, nil
	}
	if array {
		var in []any
		switch a := v.(type) {
		case []string:
			for _, x := range a {
				in = append(in, x)
			}
		case []host.Ref:
			for _, x := range a {
				in = append(in, x)
			}
		case []uint16:
			for _, x := range a {
				in = append(in, x)
			}
		case []any:
			in = a
		default:
			return nil, fmt.Errorf("%T is no %s", v, typ)
		}
		out := make([]any, 0, len(in))
		for _, x := range in {
			y, err := put(base, x)
			if err != nil {
				return nil, err
			}
			out = append(out, y)
		}
		return out, nil
	}
	switch base {
	case "string", "datetime", "ref":
		switch s := v.(type) {
		case string:
			return s, nil
		case host.Ref:
			return string(s), nil
		}
	case "boolean":
		if b, ok := v.(bool); ok {
			return b, nil
		}
	default:
		n, ok := number(v)
		if !ok || !fits(base, n) {
			return nil, fmt.Errorf("%T %v is no %s", v, v, typ)
		}
		if strings.HasSuffix(base, "64") {
			return strconv.FormatInt(n, 10), nil
		}
		return n, nil
	}
	return nil, fmt.Errorf("%T is no %s", v, typ)
}

func number(v any) (int64, bool) {
	switch n := v.(type) {
	case int:
		return int64(n), true
	case int32:
		return int64(n), true
	case uint8:
		return int64(n), true
	case uint16:
		return int64(n), true
	case uint32:
		return int64(n), true
	case uint64:
		return int64(n), n <= math.MaxInt64
	case int64:
		return n, true
	case string:
		i, err := strconv.ParseInt(n, 10, 64)
		return i, err == nil
	}
	return 0, false
}

func fits(typ string, n int64) bool {
	switch typ {
	case "uint8":
		return n >= 0 && n <= math.MaxUint8
	case "uint16":
		return n >= 0 && n <= math.MaxUint16
	case "uint32":
		return n >= 0 && n <= math.MaxUint32
	case "sint32":
		return n >= math.MinInt32 && n <= math.MaxInt32
	case "uint64":
		return n >= 0
	}
	return true
}

// fill is props with the proper names and the values as they come out; an
// unknown name or a value of another type is an error.
func (c *class) fill(op string, props host.Props) (host.Props, error) {
	out := host.Props{}
	for name, v := range props {
		proper, typ, ok := c.prop(name)
		if !ok {
			return nil, wmiError(op, wbemInvalidProperty, c.name+"."+name)
		}
		w, err := put(typ, v)
		if err != nil {
			return nil, wmiError(op, wbemTypeMismatch, c.name+"."+name+": "+err.Error())
		}
		out[proper] = w
	}
	return out, nil
}

// text is the instance in CIM-XML, as GetText(wbemObjectTextFormatCIMDTD20)
// writes it. Properties that are null have no value.
func (c *class) text(props host.Props) string {
	var b strings.Builder
	esc := func(s string) string {
		var e strings.Builder
		_ = xml.EscapeText(&e, []byte(s))
		return e.String()
	}
	fmt.Fprintf(&b, `<INSTANCE CLASSNAME="%s">`, c.name)
	names := make([]string, 0, len(c.props))
	for name := range c.props {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		typ := c.props[name]
		base, array := strings.CutSuffix(typ, "[]")
		if base == "ref" {
			base = "string"
		}
		v := props[name]
		switch {
		case v == nil && array:
			fmt.Fprintf(&b, `<PROPERTY.ARRAY NAME="%s" TYPE="%s"></PROPERTY.ARRAY>`, name, base)
		case v == nil:
			fmt.Fprintf(&b, `<PROPERTY NAME="%s" TYPE="%s"></PROPERTY>`, name, base)
		case array:
			fmt.Fprintf(&b, `<PROPERTY.ARRAY NAME="%s" TYPE="%s"><VALUE.ARRAY>`, name, base)
			for _, x := range v.([]any) {
				fmt.Fprintf(&b, `<VALUE>%s</VALUE>`, esc(fmt.Sprint(x)))
			}
			b.WriteString(`</VALUE.ARRAY></PROPERTY.ARRAY>`)
		case base == "boolean":
			fmt.Fprintf(&b, `<PROPERTY NAME="%s" TYPE="boolean"><VALUE>%s</VALUE></PROPERTY>`, name, strings.ToUpper(fmt.Sprint(v)))
		default:
			fmt.Fprintf(&b, `<PROPERTY NAME="%s" TYPE="%s"><VALUE>%s</VALUE></PROPERTY>`, name, base, esc(fmt.Sprint(v)))
		}
	}
	b.WriteString(`</INSTANCE>`)
	return b.String()
}

// parseText reads an embedded instance. Null properties are left out.
func parseText(s string) (*class, host.Props, error) {
	d := xml.NewDecoder(strings.NewReader(s))
	var c *class
	props := host.Props{}
	var name, typ string
	var values []string
	var value strings.Builder
	var inValue bool
	attr := func(e xml.StartElement, n string) string {
		for _, a := range e.Attr {
			if a.Name.Local == n {
				return a.Value
			}
		}
		return ""
	}
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		switch e := t.(type) {
		case xml.StartElement:
			switch e.Name.Local {
			case "INSTANCE":
				if c != nil {
					return nil, nil, errors.New("more than one instance")
				}
				if c = classOf(attr(e, "CLASSNAME")); c == nil {
					return nil, nil, fmt.Errorf("no class %q", attr(e, "CLASSNAME"))
				}
			case "PROPERTY", "PROPERTY.ARRAY":
				if c == nil {
					return nil, nil, errors.New("a property outside of an instance")
				}
				var ok bool
				if name, typ, ok = c.prop(attr(e, "NAME")); !ok {
					return nil, nil, fmt.Errorf("%s has no property %q", c.name, attr(e, "NAME"))
				}
				if strings.HasSuffix(typ, "[]") != (e.Name.Local == "PROPERTY.ARRAY") {
					return nil, nil, fmt.Errorf("%s.%s is a %s", c.name, name, typ)
				}
				values = nil
			case "VALUE":
				inValue = true
				value.Reset()
			}
		case xml.CharData:
			if inValue {
				value.Write(e)
			}
		case xml.EndElement:
			switch e.Name.Local {
			case "VALUE":
				inValue = false
				values = append(values, value.String())
			case "VALUE.ARRAY":
				if values == nil {
					values = []string{}
				}
			case "PROPERTY", "PROPERTY.ARRAY":
				if values == nil {
					continue
				}
				v, err := parseValues(typ, values)
				if err != nil {
					return nil, nil, fmt.Errorf("%s.%s: %w", c.name, name, err)
				}
				props[name] = v
			}
		}
	}
	if c == nil {
		return nil, nil, errors.New("no instance")
	}
	return c, props, nil
}

func parseValues(typ string, values []string) (any, error) {
	base, array := strings.CutSuffix(typ, "[]")
	one := func(s string) (any, error) {
		if base != "boolean" {
			return put(base, s)
		}
		switch {
		case strings.EqualFold(s, "TRUE"):
			return true, nil
		case strings.EqualFold(s, "FALSE"):
			return false, nil
		}
		return nil, fmt.Errorf("%q is no boolean", s)
	}
	if !array {
		if len(values) != 1 {
			return nil, fmt.Errorf("%d values", len(values))
		}
		return one(values[0])
	}
	out := []any{}
	for _, s := range values {
		v, err := one(s)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
