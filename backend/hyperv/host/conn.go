package host

import (
	"context"
	"strconv"
)

// Namespace is where Hyper-V's classes are, on Windows Server 2016 and later
// the only one.
const Namespace = `root\virtualization\v2`

// Conn is a connection to one namespace of a host's WMI. Only plain data crosses
// it: nothing that it returns holds on to the connection. All methods are safe
// for concurrent use. Errors are *[Error] where WMI gave a code.
//
// A call ends when ctx does, but what it asked for may happen all the same: WMI
// can't take a call back.
type Conn interface {
	// Query runs a WQL query and returns all that it yields: never a part of
	// it without an error.
	Query(ctx context.Context, wql string) ([]Object, error)
	// Get reads the object at path, or the class of that name.
	// [ErrNotFound] if it is gone.
	Get(ctx context.Context, path Ref) (Object, error)
	// Associators returns the objects that an association of the class assoc
	// ties to the one at path, of the class result.
	Associators(ctx context.Context, path Ref, assoc, result string) ([]Object, error)
	// Text returns a new instance of the class with these properties, in the
	// text form (CIM-XML, wbemObjectTextFormat 1) that methods with embedded
	// instances take. An unknown property is an error.
	Text(ctx context.Context, class string, props Props) (string, error)
	// TextOf is Text for a copy of the object at path with properties changed.
	TextOf(ctx context.Context, path Ref, props Props) (string, error)
	// Invoke calls a method of the object at path. What the method itself
	// reports is in the result: a ReturnValue other than 0 is no error here.
	// An unknown parameter is an error.
	Invoke(ctx context.Context, path Ref, method string, in Props) (Result, error)
	// Close ends the connection, waiting for the call under way. A second
	// Close is a no-op; other methods then return [ErrClosed].
	Close() error
}

// Ref is the path of a WMI object, as a REF parameter carries it.
type Ref string

// Props are properties or parameters by name.
//
// What goes in may be string, bool, int32, uint16, uint32, uint64, Ref, []string
// (embedded instances are strings), []Ref, []uint16 or nil. What comes out is
// string, bool, int64 (all integers of up to 32 bits), []any of these, or nil;
// integers of 64 bits and datetimes come as strings, as WMI's scripting API has
// them, and references as strings.
type Props map[string]any

// Object is an instance, or a class.
type Object struct {
	Path  Ref
	Class string
	Props Props
}

// Result of a method.
type Result struct {
	Return uint32 // ReturnValue: 0 done, 4096 a job was started, else a failure
	Out    Props  // without ReturnValue
}

// String returns a string property, "" if it is missing or something else.
func (p Props) String(name string) string {
	s, _ := p[name].(string)
	return s
}

// Bool returns a boolean property, false if it is missing or something else.
func (p Props) Bool(name string) bool {
	b, _ := p[name].(bool)
	return b
}

// Int returns an integer property of any width; ok is false if there is none.
func (p Props) Int(name string) (n int64, ok bool) { return integer(p[name]) }

// Strings returns an array of strings or references; a single string counts as
// an array of one, null as none.
func (p Props) Strings(name string) []string {
	switch v := p[name].(type) {
	case string:
		return []string{v}
	case []string:
		return v
	case []any:
		out := make([]string, 0, len(v))
		for _, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil
			}
			out = append(out, s)
		}
		return out
	}
	return nil
}

// Ints returns an array of integers.
func (p Props) Ints(name string) []int64 {
	v, _ := p[name].([]any)
	out := make([]int64, 0, len(v))
	for _, x := range v {
		n, ok := integer(x)
		if !ok {
			return nil
		}
		out = append(out, n)
	}
	return out
}

// integer reads what Props say that integers come as.
func integer(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case string:
		i, err := strconv.ParseInt(n, 10, 64)
		return i, err == nil
	}
	return 0, false
}
