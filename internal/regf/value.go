package regf

import (
	"io/fs"
	"iter"
	"strings"
)

// Types of values.
const (
	String      = 1
	Expand      = 2
	DWord       = 4
	MultiString = 7
)

// Value is a named value of a key.
type Value struct {
	Name string
	Type uint32
	Data []byte
}

// Values yields a key's values. An error ends the sequence.
func (k *Key) Values() iter.Seq2[Value, error] {
	return func(yield func(Value, error) bool) {
		n := le.Uint32(k.b[36:])
		if n == 0 {
			return
		}
		if n > maxValues {
			yield(Value{}, corrupt("key %q has %d values", k.Name, n))
			return
		}
		list, err := k.h.cell(le.Uint32(k.b[40:]), int(4*n))
		if err != nil {
			yield(Value{}, err)
			return
		}
		for i := range n {
			v, err := k.h.value(le.Uint32(list[4*i:]))
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

func (h *Hive) value(at uint32) (Value, error) {
	b, err := h.cell(at, 20)
	if err != nil {
		return Value{}, err
	}
	n := int(le.Uint16(b[2:]))
	if string(b[:2]) != "vk" || 20+n > len(b) {
		return Value{}, corrupt("no value at %d", at)
	}
	v := Value{Name: name(b[20:20+n], le.Uint16(b[16:])&1 != 0), Type: le.Uint32(b[12:])}
	size, where := le.Uint32(b[4:]), le.Uint32(b[8:])
	switch {
	case size>>31 != 0: // up to four bytes, in place of where they are
		if size &= 0x7fffffff; size > 4 {
			return Value{}, corrupt("value of %d bytes within its cell", size)
		}
		v.Data = b[8 : 8+size]
	case size > maxData:
		return Value{}, corrupt("value of %d bytes", size)
	case size > 0:
		v.Data, err = h.data(where, int(size))
	}
	return v, err
}

// data is that of one cell, or of several that a list names.
func (h *Hive) data(at uint32, size int) ([]byte, error) {
	const each = 16344
	b, err := h.cell(at, min(size, 8))
	if err != nil || size <= len(b) && (size <= each || string(b[:2]) != "db") {
		return b[:min(size, len(b))], err
	}
	if string(b[:2]) != "db" {
		return nil, corrupt("value of %d bytes in a cell of %d", size, len(b))
	}
	n := int(le.Uint16(b[2:]))
	list, err := h.cell(le.Uint32(b[4:]), 4*n)
	if err != nil {
		return nil, err
	}
	var data []byte
	for i := 0; i < n && len(data) < size; i++ {
		part, err := h.cell(le.Uint32(list[4*i:]), 1)
		if err != nil {
			return nil, err
		}
		data = append(data, part[:min(len(part), each, size-len(data))]...)
	}
	if len(data) < size {
		return nil, corrupt("value of %d bytes, of which %d are there", size, len(data))
	}
	return data, nil
}

// Value finds a value by its name, without regard to case. fs.ErrNotExist:
// there is none.
func (k *Key) Value(name string) (Value, error) {
	for v, err := range k.Values() {
		if err != nil {
			return Value{}, err
		}
		if strings.EqualFold(v.Name, name) {
			return v, nil
		}
	}
	return Value{}, fs.ErrNotExist
}

// Number is a DWORD; ok is false for anything else.
func (v Value) Number() (n uint32, ok bool) {
	if v.Type != DWord || len(v.Data) != 4 {
		return 0, false
	}
	return le.Uint32(v.Data), true
}

// Text is a string's; "" of anything else.
func (v Value) Text() string {
	if v.Type != String && v.Type != Expand {
		return ""
	}
	s, _, _ := strings.Cut(text(v.Data), "\x00")
	return s
}
