package hypervtest

import "github.com/lifeboat-dr/lifeboat/backend/hyperv/host"

// WBEM_E_* of wbemcli.h, and Win32 codes of winerror.h as HRESULTs.
const (
	rpcUnavailable        = 0x800706BA
	wbemFailed            = 0x80041001
	wbemNotFound          = 0x80041002
	wbemAccessDenied      = 0x80041003
	wbemTypeMismatch      = 0x80041005
	wbemInvalidParameter  = 0x80041008
	wbemInvalidNamespace  = 0x8004100E
	wbemInvalidClass      = 0x80041010
	wbemInvalidQuery      = 0x80041017
	wbemInvalidMethod     = 0x8004102E
	wbemInvalidParamID    = 0x80041030
	wbemInvalidProperty   = 0x80041031
	wbemInvalidObjectPath = 0x8004103A

	winInvalidHandle    = 0x80070006
	winFileNotFound     = 0x80070002
	winPathNotFound     = 0x80070003
	winAccessDenied     = 0x80070005
	winSharingViolation = 0x80070020
	winNotSupported     = 0x80070032
	winFileExists       = 0x80070050
	winInvalidParameter = 0x80070057
	winInvalidName      = 0x8007007B
	winDirNotEmpty      = 0x80070091
	winAlreadyExists    = 0x800700B7
	winBeyondEnd        = 0x80070026 // ERROR_HANDLE_EOF
	winFileCorrupt      = 0x80070570
	winDiskFull         = 0x80070070

	// Of change tracking: an identifier that isn't known, tracking that is
	// not enabled, and information that is gone.
	ctlogInvalidID = 0xC03A0029
	ctlogDisabled  = 0xC03A002A
	ctlogMissing   = 0xC03A0030
)

// Return values of Hyper-V's methods, which are a job's ErrorCode, too.
const (
	retDone             = 0
	retNotSupported     = 32770
	retJobStarted       = 4096
	retFailed           = 32768
	retAccessDenied     = 32769
	retInvalidParameter = 32773
	retInUse            = 32774
	retInvalidState     = 32775
	retNotAvailable     = 32777
	retNotFound         = 32779
	retLocked           = 32781
)

func wmiError(op string, code uint32, detail string) error {
	return &host.Error{Op: op, Code: code, Detail: detail}
}

// refusal is what a method or a job of it fails with.
type refusal struct {
	code   uint32
	detail string
}

func refuse(code uint32, detail string) *refusal { return &refusal{code, detail} }
