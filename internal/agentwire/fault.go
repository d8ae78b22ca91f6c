package agentwire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// sentinels are the errors that travel by name: what callers branch on.
var sentinels = []struct {
	name string
	err  error
}{
	{"invalid", dr.ErrInvalid}, {"not-found", dr.ErrNotFound}, {"exists", dr.ErrExists}, {"out-of-range", dr.ErrOutOfRange},
	{"changes-lost", dr.ErrChangesLost}, {"torn", dr.ErrTorn}, {"running", dr.ErrRunning}, {"ambiguous", dr.ErrAmbiguous},
	{"conflict", dr.ErrConflict}, {"fenced", dr.ErrFenced}, {"run-exists", dr.ErrRunExists}, {"busy", dr.ErrBusy},
	{"not-allowed", dr.ErrNotAllowed}, {"no-point", dr.ErrNoPoint}, {"corrupt", dr.ErrCorrupt},
	{"unsupported", dr.ErrUnsupported}, {"not-consistent", dr.ErrNotConsistent},
	{"canceled", context.Canceled}, {"deadline", context.DeadlineExceeded}, {"io-deadline", os.ErrDeadlineExceeded},
	{"eof", io.EOF}, {"unexpected-eof", io.ErrUnexpectedEOF}, {"short-write", io.ErrShortWrite},
	{"closed", fs.ErrClosed}, {"permission", fs.ErrPermission}, {"not-exist", fs.ErrNotExist}, {"exist", fs.ErrExist},
	{"go-unsupported", errors.ErrUnsupported},
}

const (
	faultDepth = 24  // of an error's tree
	faultWidth = 32  // of one of its nodes
	faultNodes = 256 // of the whole tree
	faultText  = 16 << 10
)

// fault is an error on the wire: a tree, as errors wrap errors.
type fault struct {
	Text string   `json:"text,omitempty"`
	Is   []string `json:"is,omitempty"`   // sentinels that it is, but not by those under it
	Name string   `json:"name,omitempty"` // it is that sentinel itself, and nothing else
	At   *place   `json:"at,omitempty"`   // it is a *dr.Error; its cause is the one under it
	// Permanent: it was marked so.
	Permanent bool    `json:"permanent,omitempty"`
	Under     []fault `json:"under,omitempty"`
}

type place struct {
	Op      string       `json:"op,omitempty"`
	Side    dr.Side      `json:"side,omitempty"`
	Site    string       `json:"site,omitempty"`
	Machine dr.MachineID `json:"machine,omitempty"`
	Point   dr.PointID   `json:"point,omitempty"`
	Disk    dr.DiskID    `json:"disk,omitempty"`
	Off     int64        `json:"off,omitempty"`
	Remedy  string       `json:"remedy,omitempty"`
}

// EncodeError is err for the wire; nil for nil. Sentinels, the places of
// *dr.Error and the mark of dr.Permanent survive; of other errors the text does.
func EncodeError(err error) []byte {
	if err == nil {
		return nil
	}
	nodes := faultNodes
	f := encode(err, faultDepth, &nodes)
	b, e := Marshal(f)
	if e != nil || len(b) > MaxFault {
		f = fault{Text: clip(err.Error()), Is: names(err), Permanent: dr.IsPermanent(err)}
		b, _ = Marshal(f)
	}
	return b
}

// Marshal is v as JSON, with texts as they are.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func encode(err error, depth int, nodes *int) fault {
	*nodes--
	for _, s := range sentinels {
		if err == s.err { //nolint:errorlint // the sentinel itself
			return fault{Name: s.name}
		}
	}
	var f fault
	under := unwrap(err)
	if e, ok := err.(*dr.Error); ok {
		f.At = &place{e.Op, e.Side, e.Site, e.Machine, e.Point, e.Disk, e.Off, clip(e.Remedy)}
	} else {
		f.Text = clip(err.Error())
	}
	f.Is = names(err)
	permanent := dr.IsPermanent(err)
	if depth > 0 {
		for _, u := range under[:min(len(under), faultWidth)] {
			if *nodes <= 0 {
				break
			}
			f.Under = append(f.Under, encode(u, depth-1, nodes))
			f.Is = slices.DeleteFunc(f.Is, func(name string) bool { return errors.Is(u, sentinel(name)) })
			permanent = permanent && !dr.IsPermanent(u)
		}
	}
	for _, name := range f.Is {
		permanent = permanent && !dr.IsPermanent(sentinel(name))
	}
	f.Permanent = permanent
	return f
}

func unwrap(err error) []error {
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if u := e.Unwrap(); u != nil {
			return []error{u}
		}
	case interface{ Unwrap() []error }:
		return slices.DeleteFunc(slices.Clone(e.Unwrap()), func(e error) bool { return e == nil })
	}
	return nil
}

// names are the sentinels that err is.
func names(err error) (out []string) {
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			out = append(out, s.name)
		}
	}
	return out
}

func sentinel(name string) error {
	for _, s := range sentinels {
		if s.name == name {
			return s.err
		}
	}
	return nil
}

func clip(s string) string { return s[:min(len(s), faultText)] }

// DecodeError is the inverse of EncodeError. What can't be read is an error as
// well, and never nil.
func DecodeError(b []byte) error {
	var f fault
	if err := Decode(b, &f); err != nil {
		return err
	}
	nodes := faultNodes
	return f.decode(faultDepth+1, &nodes)
}

func (f fault) decode(depth int, nodes *int) error {
	*nodes--
	if err := sentinel(f.Name); err != nil {
		return err
	}
	var under []error
	for _, u := range f.Under[:min(len(f.Under), faultWidth)] {
		if depth > 0 && *nodes > 0 {
			under = append(under, u.decode(depth-1, nodes))
		}
	}
	d := &distant{text: clip(f.Text), under: under}
	if d.text == "" {
		d.text = "an error without words"
		if f.Name != "" {
			d.text = "an error of a kind that this version doesn't know: " + clip(f.Name)
		}
	}
	for _, name := range f.Is[:min(len(f.Is), len(sentinels))] {
		if s := sentinel(name); s != nil {
			d.is = append(d.is, s)
		}
	}
	var err error = d
	if f.At != nil {
		e := &dr.Error{Op: f.At.Op, Side: f.At.Side, Site: f.At.Site, Machine: f.At.Machine, Point: f.At.Point,
			Disk: f.At.Disk, Off: f.At.Off, Remedy: f.At.Remedy, Err: d}
		if len(under) == 1 && len(d.is) == 0 {
			e.Err = under[0]
		}
		err = e
	}
	if f.Permanent {
		err = dr.Permanent(err)
	}
	return err
}

// distant is an error that came over the wire.
type distant struct {
	text  string
	is    []error
	under []error
}

func (d *distant) Error() string   { return d.text }
func (d *distant) Unwrap() []error { return append(slices.Clip(d.is), d.under...) }
