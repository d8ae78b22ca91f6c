package winhost

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unsafe"

	ole "github.com/go-ole/go-ole"
	"golang.org/x/sys/windows"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// go-ole's arrays are not used: those that it makes leak every string
// (SafeArrayPutElement copies what it is given), of integers it makes none, and
// reading one of booleans it writes two bytes into one.
var (
	oleaut32        = windows.NewLazySystemDLL("oleaut32.dll")
	safeArrayNew    = oleaut32.NewProc("SafeArrayCreateVector")
	safeArrayLock   = oleaut32.NewProc("SafeArrayAccessData")
	safeArrayUnlock = oleaut32.NewProc("SafeArrayUnaccessData")
	safeArrayType   = oleaut32.NewProc("SafeArrayGetVartype")
	safeArrayDim    = oleaut32.NewProc("SafeArrayGetDim")
	safeArrayFirst  = oleaut32.NewProc("SafeArrayGetLBound")
	safeArrayLast   = oleaut32.NewProc("SafeArrayGetUBound")
)

// maxArray is how many elements an array may have; more is damage, no answer.
const maxArray = 1 << 24

var errArray = errors.New("an array of WMI's cannot be read")

// toVariant makes what WMI's scripting API takes of what [host.Props] allow. The
// caller clears it. Integers of 64 bits go as decimal strings, as that API has
// them; those of 32 bits without a sign as the same 32 bits with one, as a
// script would write them.
func toVariant(v any) (ole.VARIANT, error) {
	switch x := v.(type) {
	case nil:
		return ole.NewVariant(ole.VT_NULL, 0), nil
	case bool:
		if x {
			return ole.NewVariant(ole.VT_BOOL, 0xFFFF), nil
		}
		return ole.NewVariant(ole.VT_BOOL, 0), nil
	case int32:
		return ole.NewVariant(ole.VT_I4, int64(x)), nil
	case uint16:
		return ole.NewVariant(ole.VT_I4, int64(x)), nil
	case uint32:
		return ole.NewVariant(ole.VT_I4, int64(x)), nil
	case uint64:
		return toVariant(strconv.FormatUint(x, 10))
	case host.Ref:
		return toVariant(string(x))
	case string:
		// An empty string is a string, too, and no null pointer.
		return ole.NewVariant(ole.VT_BSTR, int64(uintptr(unsafe.Pointer(ole.SysAllocStringLen(x))))), nil
	case []string:
		return toArray(x)
	case []host.Ref:
		return toArray(x)
	case []uint16:
		return toArray(x)
	}
	return ole.VARIANT{}, fmt.Errorf("a value of type %T cannot be given to WMI", v)
}

// toArray makes an array of variants, the only kind that scripts know.
func toArray[T any](in []T) (ole.VARIANT, error) {
	sa, _, _ := safeArrayNew.Call(uintptr(ole.VT_VARIANT), 0, uintptr(len(in)))
	if sa == 0 {
		return ole.VARIANT{}, &host.Error{Code: 0x8007000E} // E_OUTOFMEMORY
	}
	out := ole.NewVariant(ole.VT_ARRAY|ole.VT_VARIANT, int64(sa))
	var data *ole.VARIANT
	if hr, _, _ := safeArrayLock.Call(sa, uintptr(unsafe.Pointer(&data))); hr != 0 {
		out.Clear()
		return ole.VARIANT{}, &host.Error{Code: uint32(hr)}
	}
	defer safeArrayUnlock.Call(sa)
	slots := unsafe.Slice(data, len(in))
	for i := range in {
		v, err := toVariant(in[i])
		if err != nil {
			return out, err
		}
		slots[i] = v // the array's from now on
	}
	return out, nil
}

// fromVariant makes plain data of a value, as [host.Props] has it. Objects,
// which Hyper-V embeds as text and never so, are nil.
func fromVariant(v *ole.VARIANT) (any, error) {
	if v.VT&ole.VT_ARRAY != 0 {
		return fromArray(*(*uintptr)(unsafe.Pointer(&v.Val)))
	}
	if v.VT == ole.VT_VARIANT|ole.VT_BYREF {
		return fromVariant(*(**ole.VARIANT)(unsafe.Pointer(&v.Val)))
	}
	return scalar(v.VT, unsafe.Pointer(&v.Val)), nil
}

// scalar reads the value of the type at p.
func scalar(t ole.VT, p unsafe.Pointer) any {
	switch t {
	case ole.VT_I1:
		return int64(*(*int8)(p))
	case ole.VT_UI1:
		return int64(*(*uint8)(p))
	case ole.VT_I2:
		return int64(*(*int16)(p))
	case ole.VT_UI2:
		return int64(*(*uint16)(p))
	case ole.VT_I4, ole.VT_INT, ole.VT_ERROR:
		return int64(*(*int32)(p))
	case ole.VT_UI4, ole.VT_UINT:
		return int64(*(*uint32)(p))
	case ole.VT_I8:
		return strconv.FormatInt(*(*int64)(p), 10)
	case ole.VT_UI8:
		return strconv.FormatUint(*(*uint64)(p), 10)
	case ole.VT_BOOL:
		return *(*int16)(p) != 0
	case ole.VT_BSTR:
		return ole.BstrToString(*(**uint16)(p))
	case ole.VT_R4:
		return strconv.FormatFloat(float64(math.Float32frombits(*(*uint32)(p))), 'g', -1, 32)
	case ole.VT_R8:
		return strconv.FormatFloat(math.Float64frombits(*(*uint64)(p)), 'g', -1, 64)
	}
	return nil
}

// widths of the elements of arrays, in bytes.
var widths = map[ole.VT]uintptr{
	ole.VT_I1: 1, ole.VT_UI1: 1, ole.VT_I2: 2, ole.VT_UI2: 2, ole.VT_BOOL: 2,
	ole.VT_I4: 4, ole.VT_UI4: 4, ole.VT_R4: 4, ole.VT_INT: 4, ole.VT_UINT: 4,
	ole.VT_I8: 8, ole.VT_UI8: 8, ole.VT_R8: 8,
	ole.VT_BSTR: unsafe.Sizeof(uintptr(0)), ole.VT_VARIANT: unsafe.Sizeof(ole.VARIANT{}),
}

func fromArray(sa uintptr) (any, error) {
	if sa == 0 {
		return nil, nil
	}
	var first, last int32
	var t uint16
	dim, _, _ := safeArrayDim.Call(sa)
	lo, _, _ := safeArrayFirst.Call(sa, 1, uintptr(unsafe.Pointer(&first)))
	hi, _, _ := safeArrayLast.Call(sa, 1, uintptr(unsafe.Pointer(&last)))
	hr, _, _ := safeArrayType.Call(sa, uintptr(unsafe.Pointer(&t)))
	n := int64(last) - int64(first) + 1
	width := widths[ole.VT(t)]
	if dim != 1 || lo != 0 || hi != 0 || hr != 0 || n < 0 || n > maxArray || width == 0 {
		return nil, errArray
	}
	out := make([]any, n)
	if n == 0 {
		return out, nil
	}
	var data unsafe.Pointer
	if hr, _, _ := safeArrayLock.Call(sa, uintptr(unsafe.Pointer(&data))); hr != 0 {
		return nil, &host.Error{Code: uint32(hr)}
	}
	defer safeArrayUnlock.Call(sa)
	for i := range out {
		p := unsafe.Add(data, uintptr(i)*width)
		if ole.VT(t) == ole.VT_VARIANT {
			v, err := fromVariant((*ole.VARIANT)(p))
			if err != nil {
				return nil, err
			}
			out[i] = v
			continue
		}
		out[i] = scalar(ole.VT(t), p)
	}
	return out, nil
}
