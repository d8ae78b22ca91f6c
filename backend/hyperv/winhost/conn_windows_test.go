package winhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	ole "github.com/go-ole/go-ole"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// These tests ask the WMI that is there: a real one on Windows, Wine's under
// Wine. Nothing of Hyper-V is needed.

// underWine tells whether this Windows is Wine.
var underWine = windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil

// cimv2 is a connection to what every Windows has. Wine 8 can list no
// properties, so it is told which to read.
func cimv2(t *testing.T) *conn {
	s := &session{o: Options{Namespace: `root\cimv2`}}
	if underWine {
		s.names = []string{
			"__PATH", "__CLASS", "Name", "Caption", "LastBootUpTime", "OSType", "Primary", "TotalVisibleMemorySize",
			"DeviceID", "Size", "Handle", "ProcessId", "ReturnValue", "sValue", "sNames", "uValue", "Types", "hDefKey",
		}
	}
	c, err := dial(t.Context(), s)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestQueriesYieldPlainData(t *testing.T) {
	c := cimv2(t)
	found, err := c.Query(t.Context(), "SELECT * FROM Win32_OperatingSystem")
	require.NoError(t, err)
	require.Len(t, found, 1)
	o := found[0]
	require.Equal(t, "Win32_OperatingSystem", o.Class)
	require.Contains(t, string(o.Path), `Win32_OperatingSystem`)
	require.NotEmpty(t, o.Props.String("Caption"))
	require.IsType(t, int64(0), o.Props["OSType"], "16 bits without a sign")
	require.IsType(t, "", o.Props["TotalVisibleMemorySize"], "64 bits without a sign")
	n, ok := o.Props.Int("TotalVisibleMemorySize")
	require.True(t, ok)
	require.Positive(t, n)
	require.Equal(t, true, o.Props["Primary"])
	require.Regexp(t, `^\d{14}\.\d{6}[+-]\d{3}$`, o.Props["LastBootUpTime"], "a datetime")

	none, err := c.Query(t.Context(), "SELECT * FROM Win32_Process WHERE ProcessId = 4294967295")
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestObjectsAreReadByTheirPath(t *testing.T) {
	c := cimv2(t)
	all, err := c.Query(t.Context(), "SELECT * FROM Win32_Process")
	require.NoError(t, err)
	require.NotEmpty(t, all)
	o, err := c.Get(t.Context(), all[0].Path)
	require.NoError(t, err)
	require.Equal(t, all[0].Path, o.Path)
	require.Equal(t, all[0].Props["Handle"], o.Props["Handle"])

	class, err := c.Get(t.Context(), "Win32_Process")
	require.NoError(t, err)
	require.Equal(t, "Win32_Process", class.Class)
}

const localMachine = uint32(0x80000002) // HKEY_LOCAL_MACHINE

func TestMethodsTakeAndYieldParameters(t *testing.T) {
	c := cimv2(t)
	ctx := t.Context()
	const key = `Software\LifeboatTest`
	call := func(method string, in host.Props) host.Result {
		in["hDefKey"], in["sSubKeyName"] = localMachine, key
		r, err := c.Invoke(ctx, "StdRegProv", method, in)
		require.NoError(t, err, method)
		require.NotContains(t, r.Out, "ReturnValue")
		return r
	}
	require.Zero(t, call("CreateKey", host.Props{}).Return)
	require.Zero(t, call("SetStringValue", host.Props{"sValueName": "text", "sValue": "Zürich ✓"}).Return)
	require.Zero(t, call("SetStringValue", host.Props{"sValueName": "empty", "sValue": ""}).Return)
	require.Equal(t, "Zürich ✓", call("GetStringValue", host.Props{"sValueName": "text"}).Out["sValue"])
	names := call("EnumValues", host.Props{})
	require.ElementsMatch(t, []string{"text", "empty"}, names.Out.Strings("sNames"))
	require.Equal(t, []int64{1, 1}, names.Out.Ints("Types"), "REG_SZ, an array of integers")
	require.Zero(t, call("DeleteKey", host.Props{}).Return)
	require.EqualValues(t, 2, call("EnumKey", host.Props{}).Return, "what the method itself reports is no error: ERROR_FILE_NOT_FOUND")
}

// Scripts have no integers without a sign; the property's type tells which it
// was.
func TestIntegersComeBackWithoutASign(t *testing.T) {
	c := cimv2(t)
	got, err := do(t.Context(), c, "parameters", true, func(s *session) (any, error) {
		o, err := s.wmi.GetInstance("StdRegProv")
		if err != nil {
			return nil, err
		}
		defer o.Close()
		in, err := parameters(o.GetIDispatch(), "EnumKey")
		if err != nil {
			return nil, err
		}
		defer in.Clear()
		if err := set(in.ToIDispatch(), host.Props{"hDefKey": localMachine}); err != nil {
			return nil, err
		}
		props, err := s.props(t.Context(), in.ToIDispatch())
		return props["hDefKey"], err
	})
	if underWine && err != nil {
		require.EqualValues(t, 0x80004001, code(t, err), "Wine 8 lacks SWbemProperty.CIMType")
		return
	}
	require.NoError(t, err)
	require.Equal(t, int64(localMachine), got)
}

func code(t *testing.T, err error) uint32 {
	t.Helper()
	var e *host.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, host.HRESULT, e.Kind)
	return e.Code
}

func TestErrorsCarryTheCodeAndItsMeaning(t *testing.T) {
	c := cimv2(t)
	ctx := t.Context()

	_, err := c.Query(ctx, "SELEKT x")
	require.EqualValues(t, 0x80041017, code(t, err), "WBEM_E_INVALID_QUERY: %v", err)
	require.ErrorContains(t, err, "query: ")

	_, err = c.Get(ctx, "Win32_NoSuchClass")
	require.ErrorIs(t, err, host.ErrNotFound)
	_, err = c.Get(ctx, `Win32_Process.Handle="4294967295"`)
	require.ErrorIs(t, err, host.ErrNotFound)
	_, err = c.TextOf(ctx, `Win32_Process.Handle="4294967295"`, nil)
	require.ErrorIs(t, err, host.ErrNotFound)

	_, err = c.Invoke(ctx, "StdRegProv", "EnumKey", host.Props{"hDefKey": localMachine, "bogus": "x"})
	require.EqualValues(t, 0x80020006, code(t, err), "DISP_E_UNKNOWNNAME: %v", err)
	require.ErrorContains(t, err, "EnumKey: set bogus: ")
	_, err = c.TextOf(ctx, "Win32_OperatingSystem", host.Props{"Bogus": "x"})
	require.EqualValues(t, 0x80020006, code(t, err), "DISP_E_UNKNOWNNAME: %v", err)
	_, err = c.Invoke(ctx, "StdRegProv", "EnumKey", host.Props{"sSubKeyName": 3.5})
	require.ErrorContains(t, err, "float64")

	for _, in := range []host.Props{nil, {"x": "y"}} {
		_, err = c.Invoke(ctx, "StdRegProv", "NoSuchMethod", in)
		require.ErrorIs(t, err, host.ErrUnsupported)
		require.NotErrorIs(t, err, host.ErrNotFound, "the object is there")
	}
	// Whatever went wrong, the connection goes on.
	_, err = c.Query(ctx, "SELECT * FROM Win32_OperatingSystem")
	require.NoError(t, err)
}

func TestDialSaysWhyNot(t *testing.T) {
	if underWine { // a real one may well have the role
		_, err := Dial(t.Context(), Options{})
		require.ErrorIs(t, err, host.ErrNamespace)
		require.EqualValues(t, 0x8004100E, code(t, err))
		require.ErrorContains(t, err, "connect: ")

		for _, name := range []string{"no-such-host", "no-such-host.invalid"} {
			const secret = "pa55word"
			_, err = Dial(t.Context(), Options{Host: name, User: "me", Password: secret})
			require.ErrorIs(t, err, host.ErrUnreachable)
			require.NotContains(t, err.Error(), secret)
		}
	}
	_, err := Dial(t.Context(), Options{Namespace: `root\no\such`})
	require.ErrorIs(t, err, host.ErrNamespace)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Dial(ctx, Options{Namespace: `root\cimv2`})
	require.ErrorIs(t, err, context.Canceled)
}

// The library appends a dot to a name that has none, so such a host is connected
// to without it.
func TestDialByName(t *testing.T) {
	c, err := Dial(t.Context(), Options{Host: "localhost", Namespace: `root\cimv2`})
	require.NoError(t, err)
	_, err = c.Get(t.Context(), "Win32_NoSuchClass")
	require.ErrorIs(t, err, host.ErrNotFound)
	require.NoError(t, c.Close())
}

func TestThePasswordIsInNoFormat(t *testing.T) {
	o := Options{Host: "h", User: "me", Password: "pa55word"}
	var b strings.Builder
	for _, f := range []string{"%v", "%+v", "%#v", "%s"} {
		fmt.Fprintf(&b, f, o)
		fmt.Fprintf(&b, f, &o)
	}
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "o", o)
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "o", o)
	require.NotContains(t, b.String(), o.Password)
	require.Contains(t, b.String(), o.User)
}

func TestManyGoroutinesShareAConnection(t *testing.T) {
	c := cimv2(t)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			for range 4 {
				switch i % 3 {
				case 0:
					o, err := c.Query(t.Context(), "SELECT * FROM Win32_OperatingSystem")
					if err != nil || len(o) != 1 {
						t.Error(len(o), err)
					}
				case 1:
					if _, err := c.Get(t.Context(), "Win32_NoSuchClass"); !errors.Is(err, host.ErrNotFound) {
						t.Error(err)
					}
				case 2:
					r, err := c.Invoke(t.Context(), "StdRegProv", "EnumKey", host.Props{"hDefKey": localMachine, "sSubKeyName": "Software"})
					if err != nil || len(r.Out.Strings("sNames")) == 0 {
						t.Error(r, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestConnectionsHaveAThreadEachThatEndsWithThem(t *testing.T) {
	thread := func(c *conn) uint32 {
		id, err := do(t.Context(), c, "thread", true, func(*session) (uint32, error) { return windows.GetCurrentThreadId(), nil })
		require.NoError(t, err)
		return id
	}
	a, b := cimv2(t), cimv2(t)
	for range 10 {
		require.Equal(t, thread(a), thread(a))
		runtime.Gosched()
	}
	require.NotEqual(t, thread(a), thread(b))

	h, err := windows.OpenThread(windows.SYNCHRONIZE, false, thread(a))
	require.NoError(t, err)
	defer windows.CloseHandle(h)
	require.NoError(t, a.Close())
	event, err := windows.WaitForSingleObject(h, 10_000)
	require.NoError(t, err)
	require.EqualValues(t, windows.WAIT_OBJECT_0, event, "the thread lives on, an apartment of COM with it")
	_, err = b.Query(t.Context(), "SELECT * FROM Win32_OperatingSystem")
	require.NoError(t, err, "one connection's end is its own")
}

func TestCloseIsCleanAndFinal(t *testing.T) {
	c := cimv2(t)
	started, release := make(chan bool), make(chan bool)
	call := make(chan error, 1)
	go func() {
		_, err := do(t.Context(), c, "slow", true, func(*session) (int, error) {
			close(started)
			<-release
			return 0, nil
		})
		call <- err
	}()
	<-started
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	<-c.quit
	select {
	case <-closed:
		t.Fatal("Close did not wait for the call under way")
	default:
	}
	close(release)
	require.NoError(t, <-call)
	require.NoError(t, <-closed)
	require.NoError(t, c.Close())

	ctx := t.Context()
	_, err := c.Query(ctx, "SELECT * FROM Win32_OperatingSystem")
	require.ErrorIs(t, err, host.ErrClosed)
	_, err = c.Get(ctx, "Win32_Process")
	require.ErrorIs(t, err, host.ErrClosed)
	_, err = c.Associators(ctx, "Win32_Process", "", "")
	require.ErrorIs(t, err, host.ErrClosed)
	_, err = c.Text(ctx, "Win32_Process", nil)
	require.ErrorIs(t, err, host.ErrClosed)
	_, err = c.TextOf(ctx, "Win32_Process", nil)
	require.ErrorIs(t, err, host.ErrClosed)
	_, err = c.Invoke(ctx, "StdRegProv", "EnumKey", nil)
	require.ErrorIs(t, err, host.ErrClosed)
}

// A call of COM can't be taken back: who called leaves, the thread goes on.
func TestACallEndsWithItsContext(t *testing.T) {
	c := cimv2(t)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan bool)
	_, err := do(ctx, c, "slow", true, func(*session) (int, error) {
		cancel()
		<-release
		return 0, nil
	})
	require.ErrorIs(t, err, context.Canceled)
	// The thread is still busy; who waits for it may leave, too.
	waiting, leave := context.WithTimeout(t.Context(), time.Millisecond)
	defer leave()
	_, err = c.Query(waiting, "SELECT * FROM Win32_OperatingSystem")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	close(release)
	_, err = c.Query(t.Context(), "SELECT * FROM Win32_OperatingSystem")
	require.NoError(t, err)

	// A list that nobody waits for is not read to its end.
	seen := 0
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	_, err = do(t.Context(), c, "list", true, func(s *session) (int, error) {
		enum, err := s.wmi.PerformRawQuery("SELECT * FROM Win32_Process")
		if err != nil {
			return 0, err
		}
		defer enum.Release()
		return 0, drain(ctx, enum, func(*ole.IDispatch) error { seen++; cancel(); return nil })
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, seen)
}

func TestALostConnectionIsDialledAgain(t *testing.T) {
	c := cimv2(t)
	ctx := t.Context()
	var sessions []unsafe.Pointer
	calls := 0
	dies := func(times int, code uint32) func(*session) (int, error) {
		return func(s *session) (int, error) {
			calls++
			sessions = append(sessions, unsafe.Pointer(s.wmi))
			if calls <= times {
				return 0, &host.Error{Code: code}
			}
			return calls, nil
		}
	}
	reset := func() { calls, sessions = 0, nil }
	for code := range lost {
		require.ErrorIs(t, &host.Error{Code: code}, host.ErrUnreachable)
		reset()
		n, err := do(ctx, c, "read", true, dies(1, code))
		require.NoError(t, err, "a call that reads is repeated")
		require.Equal(t, 2, n)
		require.NotEqual(t, sessions[0], sessions[1], "on a new connection")
	}

	reset()
	_, err := do(ctx, c, "read", true, dies(9, 0x800706BA))
	require.ErrorIs(t, err, host.ErrUnreachable)
	require.Equal(t, 2, calls, "once")

	_, err = do(ctx, c, "read", true, dies(0, 0))
	require.NoError(t, err, "alive again")
	reset()
	_, err = do(ctx, c, "write", false, dies(1, 0x80010108))
	require.ErrorIs(t, err, host.ErrUnreachable)
	require.Equal(t, 1, calls, "what it asked for may have happened")
	_, err = do(ctx, c, "write", false, dies(1, 0))
	require.NoError(t, err, "the next call finds a connection")
	require.NotEqual(t, sessions[0], sessions[1])

	reset()
	_, err = do(ctx, c, "read", true, dies(1, 0x80041017))
	require.Error(t, err)
	require.Equal(t, 1, calls, "any other error is the call's own")
}

func TestPanicsOfTheLibrariesAreErrors(t *testing.T) {
	c := cimv2(t)
	for _, f := range []func(){
		func() { var d *ole.IDispatch; d.VTable() }, // as where an object is missing
		func() { panic("unknown type") },            // as go-ole says it
	} {
		var before, after unsafe.Pointer
		calls := 0
		_, err := do(t.Context(), c, "get", true, func(s *session) (int, error) {
			calls++
			before = unsafe.Pointer(s.wmi)
			f()
			return 0, nil
		})
		require.ErrorContains(t, err, "get: the WMI library panicked")
		require.Equal(t, 1, calls, "it would panic again")
		_, err = do(t.Context(), c, "get", false, func(s *session) (int, error) { after = unsafe.Pointer(s.wmi); return 0, nil })
		require.NoError(t, err)
		require.NotEqual(t, before, after, "whatever the panic left behind is not used")
		_, err = c.Query(t.Context(), "SELECT * FROM Win32_OperatingSystem")
		require.NoError(t, err)
	}
}

// What Wine 8 answers with "not implemented", and so wasn't run there: on a real
// Windows these are tried.
func TestWhatWineLacks(t *testing.T) {
	c := cimv2(t)
	ctx := t.Context()
	process, err := c.Query(ctx, "SELECT * FROM Win32_DiskDrive")
	require.NoError(t, err)
	_, spawn := c.Text(ctx, "Win32_Process", host.Props{"Name": "x"})
	_, text := c.TextOf(ctx, "Win32_OperatingSystem", nil)
	var assoc error
	if len(process) > 0 {
		_, assoc = c.Associators(ctx, process[0].Path, "Win32_DiskDriveToDiskPartition", "Win32_DiskPartition")
	}
	_, query := c.Query(ctx, "SELECT * FROM Win32_NoSuchClass")
	for _, x := range []struct {
		what string
		err  error
		wine uint32
	}{
		{"Text: SWbemObject.SpawnInstance_", spawn, 0x80004001},
		{"TextOf: SWbemObject.GetText_", text, 0x80020006},
		{"Associators: SWbemObject.Associators_", assoc, 0x80004001},
	} {
		if !underWine {
			require.NoError(t, x.err, x.what)
			continue
		}
		if x.err == nil {
			t.Log("this Wine can do: ", x.what)
			continue
		}
		require.EqualValues(t, x.wine, code(t, x.err), x.what)
	}
	if !underWine {
		require.EqualValues(t, 0x80041010, code(t, query), "WBEM_E_INVALID_CLASS; Wine yields nothing and no error")
	}
}

// private is how much memory this process has asked for.
func private(t *testing.T) uint64 {
	var m struct {
		size, faults uint32
		counters     [9]uintptr
	}
	m.size = uint32(unsafe.Sizeof(m))
	ok, _, err := windows.NewLazySystemDLL("kernel32.dll").NewProc("K32GetProcessMemoryInfo").
		Call(uintptr(windows.CurrentProcess()), uintptr(unsafe.Pointer(&m)), uintptr(m.size))
	require.NotZero(t, ok, err)
	return uint64(m.counters[6]) // PagefileUsage
}

// Every variant is cleared on every path, errors included: of strings of a
// mebibyte, a few would be seen.
func TestNothingLeaks(t *testing.T) {
	c := cimv2(t)
	ctx := t.Context()
	big := strings.Repeat("x", 512<<10)
	round := func() {
		_, err := c.Invoke(ctx, "StdRegProv", "EnumKey", host.Props{"hDefKey": localMachine, "sSubKeyName": big})
		_ = err // the method may take it or not
		_, err = c.Invoke(ctx, "StdRegProv", "EnumKey", host.Props{"hDefKey": localMachine, "sSubKeyName": []string{big, big}})
		_ = err
		_, err = c.Invoke(ctx, "StdRegProv", "EnumKey", host.Props{"sSubKeyName": big, "unknown": big})
		require.Error(t, err)
		_, err = c.Get(ctx, host.Ref(`Win32_Process.Handle="`+big+`"`))
		require.Error(t, err)
		_, err = c.Associators(ctx, "Win32_OperatingSystem", big, big)
		_ = err
		_, err = do(ctx, c, "array", true, func(*session) (int, error) {
			v, err := toVariant([]string{big, big})
			if err != nil {
				return 0, err
			}
			defer v.Clear()
			back, err := fromVariant(&v)
			return len(back.([]any)), err
		})
		require.NoError(t, err)
	}
	round()
	debug.FreeOSMemory()
	before := private(t)
	const rounds = 8
	for range rounds {
		round()
	}
	debug.FreeOSMemory()
	after := private(t)
	t.Logf("%d MiB before, %d after %d rounds", before>>20, after>>20, rounds)
	require.Less(t, int64(after)-int64(before), int64(rounds<<20)*3/4, "about a string a round stays")
}
