package winhost

import (
	"errors"
	"io"
	"runtime"
	"unsafe"

	"golang.org/x/sys/windows"
)

// At most so many requests are under way on one disk, of at most so many bytes
// each: enough to keep a disk busy.
const (
	maxRequests = 8
	maxRequest  = 1 << 20
)

// requests are overlapped reads and writes of one handle, several at a time. It
// is a device, safe for concurrent use.
type requests struct {
	h    windows.Handle
	idle chan *request
}

// request is one that may be under way.
type request struct {
	o windows.Overlapped
	n int // bytes asked for
	// begun is nil when the request has been taken, whether it is done or not.
	begun error
	pins  runtime.Pinner // the memory that the kernel writes to
}

func newRequests(h windows.Handle) (*requests, error) {
	r := &requests{h: h, idle: make(chan *request, maxRequests)}
	for range maxRequests {
		event, err := windows.CreateEvent(nil, 1, 0, nil)
		if err != nil {
			r.close()
			return nil, failed("CreateEvent", err)
		}
		r.idle <- &request{o: windows.Overlapped{HEvent: event}}
	}
	return r, nil
}

// close is called when none is under way.
func (r *requests) close() {
	for {
		select {
		case q := <-r.idle:
			windows.CloseHandle(q.o.HEvent)
		default:
			return
		}
	}
}

func (r *requests) read(p []byte, off int64) error {
	return r.all(p, off, "ReadFile", windows.ReadFile)
}

func (r *requests) write(p []byte, off int64) error {
	return r.all(p, off, "WriteFile", windows.WriteFile)
}

// all cuts a request into pieces and waits for all of them, whatever becomes of
// each: their memory is the caller's again afterwards.
func (r *requests) all(p []byte, off int64, op string, begin func(windows.Handle, []byte, *uint32, *windows.Overlapped) error) error {
	var first error
	var under []*request
	wait := func() {
		q := under[0]
		under = under[1:]
		if err := r.end(q); err != nil && first == nil {
			first = failed(op, err)
		}
	}
	for len(p) > 0 && first == nil {
		var q *request
		select {
		case q = <-r.idle:
		default:
			// Who has some under way waits for those first, and never for others
			// while holding all.
			if len(under) > 0 {
				wait()
				continue
			}
			q = <-r.idle
		}
		n := min(len(p), maxRequest)
		q.begin(r.h, p[:n], off, begin)
		under = append(under, q)
		p, off = p[n:], off+int64(n)
	}
	for len(under) > 0 {
		wait()
	}
	return first
}

func (q *request) begin(h windows.Handle, p []byte, off int64, begin func(windows.Handle, []byte, *uint32, *windows.Overlapped) error) {
	q.o = windows.Overlapped{HEvent: q.o.HEvent, Offset: uint32(off), OffsetHigh: uint32(off >> 32)}
	q.n = len(p)
	q.pins.Pin(unsafe.SliceData(p))
	q.pins.Pin(q)
	q.begun = begin(h, p, nil, &q.o)
	if errors.Is(q.begun, windows.ERROR_IO_PENDING) {
		q.begun = nil
	}
}

// end waits for a request and gives it back.
func (r *requests) end(q *request) error {
	err := q.begun
	if err == nil {
		var n uint32
		err = windows.GetOverlappedResult(r.h, &q.o, &n, true)
		if err == nil && int(n) != q.n {
			err = io.ErrUnexpectedEOF
		}
	}
	q.pins.Unpin()
	r.idle <- q
	return err
}
