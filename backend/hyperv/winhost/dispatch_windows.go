package winhost

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"unsafe"

	ole "github.com/go-ole/go-ole"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// userLocale is LOCALE_USER_DEFAULT (winnt.h).
const userLocale = 0x400

// dispParams is DISPPARAMS. go-ole's holds its pointers as numbers, which hides
// them from the garbage collector.
type dispParams struct {
	args       *ole.VARIANT // last argument first
	named      *int32
	count      uint32
	namedCount uint32
}

// excepInfo is EXCEPINFO (oaidl.h).
type excepInfo struct {
	code, _                   uint16
	source, description, help *uint16
	context                   uint32
	_, _                      uintptr
	scode                     uint32
}

// invoke calls a method of an object, or gets or puts a property. The
// arguments remain the caller's; so does what it returns, to be cleared.
//
// It stands beside go-ole's, which can't put arrays of integers, and leaks those
// of strings. A name that the object doesn't have is an error with the code
// DISP_E_UNKNOWNNAME, before anything is called.
func invoke(d *ole.IDispatch, name string, how uint16, args ...ole.VARIANT) (ole.VARIANT, error) {
	var out ole.VARIANT
	if d == nil {
		return out, errors.New(name + " of an object that is not there")
	}
	ids, err := d.GetIDsOfName([]string{name})
	if err != nil {
		var o *ole.OleError
		if errors.As(err, &o) {
			err = &host.Error{Code: uint32(o.Code()), Detail: "the object has no " + name}
		}
		return out, err
	}
	reversed := make([]ole.VARIANT, len(args))
	for i, a := range args {
		reversed[len(args)-1-i] = a
	}
	params := &dispParams{args: unsafe.SliceData(reversed), count: uint32(len(args))}
	if how == ole.DISPATCH_PROPERTYPUT {
		put := int32(ole.DISPID_PROPERTYPUT)
		params.named, params.namedCount = &put, 1
	}
	var x excepInfo
	hr, _, _ := syscall.SyscallN(d.VTable().Invoke,
		uintptr(unsafe.Pointer(d)),
		uintptr(ids[0]),
		uintptr(unsafe.Pointer(ole.IID_NULL)),
		userLocale,
		uintptr(how),
		uintptr(unsafe.Pointer(params)),
		uintptr(unsafe.Pointer(&out)),
		uintptr(unsafe.Pointer(&x)),
		0)
	if int32(hr) >= 0 {
		return out, nil
	}
	e := &host.Error{Code: uint32(hr)}
	if e.Code == dispException && x.scode != 0 {
		e.Code = x.scode
	}
	e.Detail = strings.TrimSpace(ole.BstrToString(x.description))
	for _, s := range []*uint16{x.source, x.description, x.help} {
		if s != nil {
			ole.SysFreeString((*int16)(unsafe.Pointer(s)))
		}
	}
	out.Clear()
	return ole.VARIANT{}, e
}

// object gets a property, or calls a method, that yields an object. The caller
// clears the variant, which holds it.
func object(d *ole.IDispatch, name string, how uint16, args ...any) (*ole.VARIANT, error) {
	vs := make([]ole.VARIANT, 0, len(args))
	defer func() {
		for i := range vs {
			vs[i].Clear()
		}
	}()
	for _, a := range args {
		v, err := toVariant(a)
		if err != nil {
			return nil, err
		}
		vs = append(vs, v)
	}
	v, err := invoke(d, name, how, vs...)
	if err != nil {
		return nil, err
	}
	if v.ToIDispatch() == nil && v.ToIUnknown() == nil {
		v.Clear()
		return nil, errors.New(name + " yielded no object")
	}
	return &v, nil
}

// value gets a property as plain data.
func value(d *ole.IDispatch, name string) (any, error) {
	v, err := invoke(d, name, ole.DISPATCH_PROPERTYGET)
	if err != nil {
		return nil, err
	}
	defer v.Clear()
	return fromVariant(&v)
}

// put sets a property.
func put(d *ole.IDispatch, name string, to any) error {
	v, err := toVariant(to)
	defer v.Clear()
	if err == nil {
		var none ole.VARIANT
		none, err = invoke(d, name, ole.DISPATCH_PROPERTYPUT, v)
		none.Clear()
	}
	return failed("set "+name, err)
}

// each calls f with each object of a collection. The library's loops, and
// go-ole's, take an error in their midst for the end; this one doesn't.
func each(ctx context.Context, collection *ole.IDispatch, f func(*ole.IDispatch) error) error {
	v, err := object(collection, "_NewEnum", ole.DISPATCH_PROPERTYGET)
	if err != nil {
		return err
	}
	defer v.Clear()
	if v.ToIUnknown() == nil {
		return errors.New("_NewEnum yielded no enumerator")
	}
	enum, err := v.ToIUnknown().IEnumVARIANT(ole.IID_IEnumVariant)
	if err != nil {
		return err
	}
	defer enum.Release()
	return drain(ctx, enum, f)
}

// drain is each for an enumerator, which remains the caller's.
func drain(ctx context.Context, enum *ole.IEnumVARIANT, f func(*ole.IDispatch) error) error {
	const atEnd = 1 // S_FALSE
	for {
		if err := ctx.Err(); err != nil {
			return err // nobody waits for the rest
		}
		v, n, err := enum.Next(1)
		if n == 0 {
			var o *ole.OleError
			if err == nil || errors.As(err, &o) && o.Code() == atEnd {
				return nil
			}
			return err
		}
		err = f(v.ToIDispatch())
		v.Clear()
		if err != nil {
			return err
		}
	}
}
