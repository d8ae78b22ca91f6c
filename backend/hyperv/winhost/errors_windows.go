package winhost

import (
	"errors"
	"fmt"
	"strings"

	ole "github.com/go-ole/go-ole"
	"golang.org/x/sys/windows"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// dispException is DISP_E_EXCEPTION (winerror.h): the real code is in the
// EXCEPINFO.
const dispException = 0x80020009

// lost are codes after which a connection answers nothing any more: its
// server is gone, or the network to it (winerror.h, wbemcli.h).
var lost = map[uint32]bool{
	0x80041015: true, // WBEM_E_TRANSPORT_FAILURE
	0x80041033: true, // WBEM_E_SHUTTING_DOWN
	0x800706BA: true, // RPC_S_SERVER_UNAVAILABLE
	0x800706BE: true, // RPC_S_CALL_FAILED
	0x800706BF: true, // RPC_S_CALL_FAILED_DNE
	0x80010007: true, // RPC_E_SERVER_DIED
	0x80010012: true, // RPC_E_SERVER_DIED_DNE
	0x80010108: true, // RPC_E_DISCONNECTED
	0x800401FD: true, // CO_E_OBJNOTCONNECTED
}

// diedUnder tells whether err says that the connection is gone.
func diedUnder(err error) bool {
	var e *host.Error
	return errors.As(err, &e) && e.Kind == host.HRESULT && lost[e.Code]
}

// failed gives an error of this package or of the libraries its operation and
// its code. Text of the libraries is kept only with a code: it names neither
// users nor passwords.
func failed(op string, err error) error {
	if err == nil {
		return nil
	}
	var e *host.Error
	if errors.As(err, &e) {
		switch e.Op {
		case "":
			e.Op = op
		case op:
		default:
			e.Op = op + ": " + e.Op
		}
		return err
	}
	var o *ole.OleError
	if errors.As(err, &o) {
		e = &host.Error{Op: op, Code: uint32(o.Code())}
		if x, ok := o.SubError().(ole.EXCEPINFO); ok {
			if e.Code == dispException && x.SCODE() != 0 {
				e.Code = x.SCODE()
			}
			if d := strings.TrimSpace(o.Description()); d != "<nil>" { // what go-ole makes of no text
				e.Detail = d
			}
		}
		return e
	}
	var n windows.Errno
	if errors.As(err, &n) {
		return win32(op, n)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// win32 is an error with a Win32 code, as HRESULT_FROM_WIN32 has it. Some of
// virtdisk's codes are such values already.
func win32(op string, n windows.Errno) *host.Error {
	code := uint32(n)
	if code <= 0xFFFF {
		code |= 0x80070000
	}
	return &host.Error{Op: op, Code: code, Detail: n.Error()}
}
