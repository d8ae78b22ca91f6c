package host

import (
	"errors"
	"fmt"
	"slices"
)

// Errors that an [Error]'s code means. Test with errors.Is.
var (
	ErrNotFound     = errors.New("not found")
	ErrNamespace    = errors.New("no such WMI namespace: the Hyper-V role is not there")
	ErrDenied       = errors.New("access denied")
	ErrUnreachable  = errors.New("the host does not answer")
	ErrBusy         = errors.New("the object is busy or in another state")
	ErrExists       = errors.New("file exists already")
	ErrNotEmpty     = errors.New("folder is not empty")
	ErrInUse        = errors.New("file is in use")
	ErrFull         = errors.New("no room left on the volume")
	ErrTrackingLost = errors.New("change tracking cannot tell")
	ErrUnsupported  = errors.New("not supported by this host")
	ErrTimeout      = errors.New("timed out on the host")
	ErrClosed       = errors.New("the connection is closed")
)

// Kind says whose number a code is: the same number means other things to each.
type Kind uint8

// Kinds of codes.
const (
	HRESULT Kind = iota // of WMI, COM or virtdisk, also Win32 codes as 0x8007xxxx
	Method              // a method's ReturnValue, or a job's ErrorCode
)

// Error is a failure that a host reported with a code.
type Error struct {
	Op     string // "query", "CreateSnapshot", "OpenVirtualDisk", ...
	Kind   Kind
	Code   uint32
	Detail string // the host's own words, if it had any
}

// Error tells operation, code and the host's words.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s: ", e.Op)
	if e.Kind == Method {
		s += fmt.Sprintf("code %d", e.Code)
	} else {
		s += fmt.Sprintf("0x%08X", e.Code)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if m := e.meaning(); m != nil {
		s += " (" + m.Error() + ")"
	}
	return s
}

// Is makes errors.Is(err, ErrDenied) and the like work.
func (e *Error) Is(target error) bool { m := e.meaning(); return m != nil && m == target }

// hresults by meaning: wbemcli.h, winerror.h.
var hresults = map[error][]uint32{
	ErrNotFound:  {0x80041002, 0x80041010, 0x80070002, 0x80070003},
	ErrNamespace: {0x8004100E},
	ErrDenied:    {0x80041003, 0x80070005, 0x80041064},
	// Of WMI, RPC and COM: the server is gone, or the way to it.
	ErrUnreachable: {0x80041015, 0x80041033, 0x800706BA, 0x800706BE, 0x800706BF, 0x80010007, 0x80010012, 0x80010108, 0x800401FD},
	ErrExists:      {0x80070050, 0x800700B7},
	ErrNotEmpty:    {0x80070091},
	ErrInUse:       {0x80070020, 0x80070021, 0xC03A0028},
	ErrFull:        {0x80070070, 0x80070027},
	// ERROR_CTLOG_* of winerror.h.
	ErrTrackingLost: {0xC03A0020, 0xC03A0021, 0xC03A0022, 0xC03A0023, 0xC03A0024, 0xC03A0029, 0xC03A002A, 0xC03A0030},
	ErrUnsupported:  {0x80070032, 0x80070078, 0x80004001, 0x8007007E, 0x8007007F, 0x8004100C, 0x80041024, 0x8004102E},
	ErrTimeout:      {0x800705B4, 0x80041069, 0x80041088, 0x80043001},
}

// methods are the return values of Hyper-V's methods (Msvm classes), which are
// a job's ErrorCode, too.
var methods = map[error][]uint32{
	ErrUnsupported: {1, 32770},
	ErrDenied:      {32769},
	ErrTimeout:     {32772},
	// In use, invalid state for this operation, not available, locked.
	ErrBusy:     {32774, 32775, 32777, 32781},
	ErrNotFound: {32779},
}

func (e *Error) meaning() error {
	table := hresults
	if e.Kind == Method {
		table = methods
		if e.Code >= 0x80000000 { // jobs report HRESULTs as well
			table = hresults
		}
	}
	for meaning, codes := range table {
		if slices.Contains(codes, e.Code) {
			return meaning
		}
	}
	return nil
}
