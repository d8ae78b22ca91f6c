package winhost

import (
	"math"
	"testing"
	"unsafe"

	ole "github.com/go-ole/go-ole"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// What host.Props allow goes in as a script would have it, and comes out as
// host.Props say.
func TestValuesGoInAndComeOut(t *testing.T) {
	for _, c := range []struct{ in, out any }{
		{nil, nil},
		{true, true},
		{false, false},
		{"", ""},
		{"Zürich ✓ \U0001F6F6", "Zürich ✓ \U0001F6F6"},
		{int32(-7), int64(-7)},
		{uint16(65535), int64(65535)},
		{uint32(5), int64(5)},
		{uint32(math.MaxUint32), int64(-1)}, // until the property tells its type
		{uint64(math.MaxUint64), "18446744073709551615"},
		{host.Ref(`\\H\root:C.K="v"`), `\\H\root:C.K="v"`},
		{[]string{"a", "", "ü"}, []any{"a", "", "ü"}},
		{[]string{}, []any{}},
		{[]host.Ref{"r"}, []any{"r"}},
		{[]uint16{2, 65535}, []any{int64(2), int64(65535)}},
	} {
		v, err := toVariant(c.in)
		require.NoError(t, err)
		out, err := fromVariant(&v)
		require.NoError(t, err)
		require.Equal(t, c.out, out)
		require.NoError(t, v.Clear())
	}
	for _, bad := range []any{3.5, struct{}{}, int(1), []int{1}, []byte{1}, (*int)(nil)} {
		_, err := toVariant(bad)
		require.ErrorContains(t, err, "cannot be given to WMI")
	}
}

func TestIntegersWithoutASign(t *testing.T) {
	for _, c := range []struct {
		in   any
		bits int64
		out  any
	}{
		{int64(-1), 0xFFFFFFFF, int64(4294967295)},
		{int64(-2), 0xFFFF, int64(65534)},
		{int64(-2), 0, int64(-2)},
		{int64(7), 0xFF, int64(7)},
		{[]any{int64(-1), int64(3)}, 0xFFFFFFFF, []any{int64(4294967295), int64(3)}},
		{"-1", 0xFFFF, "-1"},
	} {
		require.Equal(t, c.out, unsigned(c.in, c.bits))
	}
	require.True(t, negative([]any{"x", int64(-1)}))
	require.False(t, negative([]any{"x", int64(1), nil}))
}

// Arrays of every element that WMI knows, as a server may send them, made by
// the system's own functions.
func TestArraysOfOtherServers(t *testing.T) {
	element := oleaut32.NewProc("SafeArrayPutElement")
	make1 := func(vt ole.VT, first int32, values ...[]byte) ole.VARIANT {
		sa, _, _ := safeArrayNew.Call(uintptr(vt), uintptr(first), uintptr(len(values)))
		require.NotZero(t, sa)
		for i, b := range values {
			at := first + int32(i)
			hr, _, _ := element.Call(sa, uintptr(unsafe.Pointer(&at)), uintptr(unsafe.Pointer(&b[0])))
			require.Zero(t, hr)
		}
		return ole.NewVariant(ole.VT_ARRAY|vt, int64(sa))
	}
	for _, c := range []struct {
		vt     ole.VT
		values [][]byte
		out    []any
	}{
		{ole.VT_BOOL, [][]byte{{0xFF, 0xFF}, {0, 0}}, []any{true, false}},
		{ole.VT_I1, [][]byte{{0xFE}}, []any{int64(-2)}},
		{ole.VT_UI1, [][]byte{{0xFE}, {1}}, []any{int64(254), int64(1)}},
		{ole.VT_I2, [][]byte{{0xFE, 0xFF}}, []any{int64(-2)}},
		{ole.VT_UI2, [][]byte{{0xFE, 0xFF}}, []any{int64(65534)}},
		{ole.VT_I4, [][]byte{{0xFE, 0xFF, 0xFF, 0xFF}}, []any{int64(-2)}},
		{ole.VT_UI4, [][]byte{{0xFE, 0xFF, 0xFF, 0xFF}}, []any{int64(4294967294)}},
		{ole.VT_I8, [][]byte{{0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}}, []any{"-2"}},
		{ole.VT_UI8, [][]byte{{0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}}, []any{"18446744073709551614"}},
		{ole.VT_R4, [][]byte{{0, 0, 0xC0, 0x3F}}, []any{"1.5"}},
		{ole.VT_R8, [][]byte{{0, 0, 0, 0, 0, 0, 0xF8, 0x3F}}, []any{"1.5"}},
	} {
		for _, first := range []int32{0, 1} {
			v := make1(c.vt, first, c.values...)
			out, err := fromVariant(&v)
			require.NoError(t, err)
			require.Equal(t, c.out, out, c.vt)
			require.NoError(t, v.Clear())
		}
	}
	null := ole.NewVariant(ole.VT_ARRAY|ole.VT_BSTR, 0)
	out, err := fromVariant(&null)
	require.NoError(t, err)
	require.Nil(t, out)
	odd := make1(ole.VT_CY, 0, make([]byte, 8))
	_, err = fromVariant(&odd)
	require.Error(t, err, "an element that nobody knows is no empty array")
	require.NoError(t, odd.Clear())
}
