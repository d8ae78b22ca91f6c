package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/internal/vmdk"
)

// NFC reads snapshots of running and stopped machines by an export lease: each
// disk as one compressed stream over HTTPS. It needs nothing installed and no
// more privileges than an export does (VApp.Export), but it is for whole disks:
// the stream goes from the disk's start to its end, at 20 to 30 MB/s as others
// report, and where only a little is wanted all before it travels too. It can't
// write.
//
// Reads may come in any order and concurrently. They are answered as the stream
// passes, and from the last 32 MiB that have passed, which are kept in memory
// for each open disk; a read of what is further behind has the stream begin
// again, which the log tells. A stream that breaks is begun again once for each
// place that it broke at.
//
// The disks of one snapshot share a lease, which is kept alive as long as one of
// them is open.
//
// # Not verified on
//
// No image of a real host was read. Not known are: the keys by which a lease
// names its disks in every release (an unknown one is refused, never guessed);
// whether a host lets an image be downloaded twice in one lease (a new lease is
// taken if it doesn't); for how long it bears a download that pauses.
func NFC() Transport { return &nfcTransport{leases: leases{all: map[leaseKey]*lease{}}} }

type nfcTransport struct{ leases leases }

const (
	// nfcWindow is what is remembered of a stream.
	nfcWindow = 32 << 20
	// nfcStep bounds how far the stream goes before readers are looked after.
	nfcStep = 256 << 10
	// nfcBreaks bounds how often one disk's stream may break.
	nfcBreaks = 5
	// nfcPatience is how long a host may take to begin a stream.
	nfcPatience = 2 * time.Minute
)

func (*nfcTransport) String() string { return "nfc" }

func (*nfcTransport) refuse(d diskRef, write bool) string {
	switch {
	case write:
		return "an export lease can't write"
	case d.snapshot == nil:
		return "there is no snapshot to export"
	}
	return ""
}

func (t *nfcTransport) open(ctx context.Context, v *VSphere, d diskRef, _ bool) (device, error) {
	n := &nfcDisk{v: v, ref: d, leases: &t.leases, http: nfcClient(v), wake: make(chan struct{}, 1), brokeAt: -1}
	n.window.begin(d.size, nfcWindow)
	n.life, n.end = context.WithCancelCause(context.Background())
	err := n.connect(ctx)
	if err != nil && ctx.Err() == nil && errors.Is(err, errCut) {
		n.disconnect()
		v.options.Log.WarnContext(ctx, "export begun again", "machine", d.machine, "disk", d.disk, "error", err)
		err = n.connect(ctx)
	}
	if err != nil {
		n.end(err)
		n.release()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("export of the snapshot: %w", err)
	}
	n.idle.Go(n.pump)
	return n, nil
}

// nfcClient has the session's trust. A stream has a connection for itself.
func nfcClient(v *VSphere) *http.Client {
	t := v.client.Client.DefaultTransport().Clone()
	t.ResponseHeaderTimeout = nfcPatience
	c := v.client.Client.Client // a copy
	c.Transport = t
	return &c
}

// nfcDisk reads a disk at random from a stream of it. One goroutine, pump,
// moves the stream on for as long as somebody waits for what is to come.
type nfcDisk struct {
	v      *VSphere
	ref    diskRef
	leases *leases
	http   *http.Client

	life context.Context // ends with Close
	end  context.CancelCauseFunc
	idle sync.WaitGroup
	once sync.Once
	wake chan struct{} // somebody waits

	// Only open, and then pump, use these.
	lease   *lease
	stream  *nfcStream
	breaks  int
	brokeAt int64 // -1: it didn't
	rewinds int

	mu      sync.Mutex
	window  window
	waiting []*want
	whole   bool  // the stream was read to its end once
	failed  error // for good
}

// want is a read that waits.
type want struct {
	p    []byte // what is missing
	off  int64
	done chan error // has room for the answer
}

func (n *nfcDisk) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	w := &want{p: p, off: off, done: make(chan error, 1)}
	n.mu.Lock()
	switch {
	case n.failed != nil:
		defer n.mu.Unlock()
		return 0, n.failed
	case n.window.serve(w):
		defer n.mu.Unlock()
		return len(p), nil
	}
	n.waiting = append(n.waiting, w)
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
	select {
	case err := <-w.done:
		if err != nil {
			return 0, err
		}
		return len(p), nil
	case <-ctx.Done():
		// pump writes to p under the lock only.
		n.mu.Lock()
		defer n.mu.Unlock()
		n.waiting = slices.DeleteFunc(n.waiting, func(o *want) bool { return o == w })
		return 0, ctx.Err()
	}
}

// pump moves the stream.
func (n *nfcDisk) pump() {
	for {
		next, waits := n.nearest()
		var err error
		switch {
		case n.life.Err() != nil:
			n.fail(context.Cause(n.life))
			return
		case !waits:
			select {
			case <-n.wake:
			case <-n.life.Done():
			}
			continue
		case next < 0:
			n.rewinds++
			n.v.options.Log.InfoContext(n.life, "export begun again for a read behind its window", "machine", n.ref.machine, "disk", n.ref.disk, "times", n.rewinds)
			n.disconnect()
			err = n.connect(n.life)
		default:
			err = n.advance(next)
		}
		if err != nil {
			n.recover(err)
		}
	}
}

// nearest is the offset of the first read ahead of the stream; -1 if all that
// wait are behind its window. Those behind wait until none is ahead: so each
// turn of the stream serves all who waited when it began.
func (n *nfcDisk) nearest() (off int64, waits bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	off = -1
	for _, w := range n.waiting {
		if w.off >= n.window.hi && (off < 0 || w.off < off) {
			off = w.off
		}
	}
	return off, len(n.waiting) > 0
}

// advance decodes a little of the stream, and gives it to who waits for it.
// Nobody waits for what is before the offset next.
func (n *nfcDisk) advance(next int64) error {
	if err := n.stream.fill(); err != nil {
		return err
	}
	e := &n.stream.extent
	n.mu.Lock()
	var step int64
	if e.Data == nil {
		// A hole is passed as far as it is of use: what remains of it is no
		// more behind than it must be.
		step = min(e.Len, max(next-n.window.hi, nfcStep))
	} else {
		step = min(e.Len, nfcStep)
	}
	step = n.window.put(e.Data, step)
	at := n.window.hi + step
	n.mu.Unlock()
	e.Off, e.Len = e.Off+step, e.Len-step
	if e.Data != nil {
		e.Data = e.Data[step:]
	}
	if at == n.ref.size {
		// The last bytes are given out when the image is known to be whole.
		if err := n.stream.finish(); err != nil {
			return err
		}
	}
	n.lease.moved(n.ref.key, at)
	if at > n.brokeAt {
		n.brokeAt = -1
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.window.hi = at
	n.whole = n.whole || at == n.ref.size
	n.waiting = slices.DeleteFunc(n.waiting, func(w *want) bool {
		served := n.window.serve(w)
		if served {
			w.done <- nil
		}
		return served
	})
	return nil
}

// recover begins the stream again after it broke, once for each place.
func (n *nfcDisk) recover(err error) {
	for n.life.Err() == nil {
		n.mu.Lock()
		at := n.window.hi
		n.mu.Unlock()
		n.breaks++
		n.disconnect()
		if at <= n.brokeAt || n.breaks > nfcBreaks {
			n.fail(advise(fmt.Errorf("the export broke again, at %d of %d bytes: %w", at, n.ref.size, err),
				"look at the network to the ESXi host and at the host's load; VDDK or HotAdd don't need one stream from start to end"))
			return
		}
		n.brokeAt = at
		n.v.options.Log.WarnContext(n.life, "export broke and is begun again", "machine", n.ref.machine, "disk", n.ref.disk, "offset", at, "error", err)
		if err = n.connect(n.life); err == nil {
			return
		}
	}
}

// fail answers all who wait, and all who come.
func (n *nfcDisk) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failed == nil {
		n.failed = err
	}
	for _, w := range n.waiting {
		w.done <- n.failed
	}
	n.waiting = nil
}

// connect begins the stream. ctx bounds that only.
func (n *nfcDisk) connect(ctx context.Context) error {
	if n.lease != nil && !n.lease.alive(ctx) {
		n.release()
	}
	if n.lease == nil {
		l, err := n.leases.acquire(ctx, n.v, n.ref)
		if err != nil {
			return err
		}
		n.lease = l
	}
	u, err := n.lease.url(n.ref)
	if err != nil {
		return err
	}
	s, err := openStream(ctx, n.life, n.http, u)
	if err != nil {
		return err
	}
	if c := s.reader.Capacity(); c != n.ref.size {
		s.close()
		return fmt.Errorf("the image is of a disk of %d bytes, not of %d: it is another disk, or it was resized meanwhile", c, n.ref.size)
	}
	n.stream = s
	n.mu.Lock()
	defer n.mu.Unlock()
	n.window.lo, n.window.hi = 0, 0
	return nil
}

func (n *nfcDisk) disconnect() {
	if n.stream != nil {
		n.stream.close()
		n.stream = nil
	}
	n.http.CloseIdleConnections()
}

// release gives the lease back.
func (n *nfcDisk) release() {
	if n.lease != nil {
		n.mu.Lock()
		whole := n.whole
		n.mu.Unlock()
		n.leases.release(n.lease, whole)
		n.lease = nil
	}
}

func (n *nfcDisk) Close() error {
	n.once.Do(func() {
		n.end(errors.New("the disk was closed"))
		n.idle.Wait()
		n.disconnect()
		n.release()
		n.fail(context.Cause(n.life))
		n.mu.Lock()
		defer n.mu.Unlock()
		n.window.ring = nil
	})
	return nil
}

// nfcStream is one download.
type nfcStream struct {
	body   io.ReadCloser
	reader *vmdk.Reader
	cancel context.CancelFunc
	extent vmdk.Extent // what of it has not been used yet
}

// openStream reads up to the first grain. The stream ends with life; ctx bounds
// the opening.
func openStream(ctx, life context.Context, c *http.Client, url string) (*nfcStream, error) {
	inner, cancel := context.WithCancel(life)
	stop := context.AfterFunc(ctx, cancel)
	s, err := func() (*nfcStream, error) {
		req, err := http.NewRequestWithContext(inner, http.MethodGet, url, nil)
		if err != nil {
			return nil, errors.New("the lease has an address that makes no sense")
		}
		req.Header.Set("Accept-Encoding", "identity")
		res, err := c.Do(req)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errCut, bare(err))
		}
		if res.StatusCode != http.StatusOK {
			res.Body.Close()
			return nil, nfcStatus(res.StatusCode)
		}
		r, err := vmdk.NewReader(res.Body)
		if err != nil {
			res.Body.Close()
			return nil, fmt.Errorf("%w: %w", errCut, bare(err))
		}
		return &nfcStream{body: res.Body, reader: r, cancel: cancel}, nil
	}()
	if !stop() && err == nil {
		s.close()
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return s, nil
}

// nfcStatus explains an answer without an image. All may be cured by a new
// lease or a moment's wait.
func nfcStatus(code int) error {
	err := fmt.Errorf("%w: the host answers %d %s", errCut, code, http.StatusText(code))
	switch code {
	case http.StatusServiceUnavailable:
		return advise(err, "too many transfers run through this host or vCenter: lower Options.PerHost or Options.Total, or look for other backups")
	case http.StatusNotFound, http.StatusForbidden, http.StatusUnauthorized:
		return advise(err, "the lease has run out, or the host doesn't know of it: is its clock right, and does it reach vCenter?")
	}
	return advise(err, "look at the host's log (hostd.log) for the export")
}

// fill has an extent ready.
func (s *nfcStream) fill() error {
	for s.extent.Len == 0 {
		e, err := s.next()
		if err == io.EOF {
			return errors.New("the image has ended before the disk")
		}
		if err != nil {
			return err
		}
		s.extent = e
	}
	return nil
}

// finish makes sure that nothing but the end follows.
func (s *nfcStream) finish() error {
	_, err := s.next()
	switch err {
	case io.EOF:
		return nil
	case nil:
		return errors.New("the image goes on after the disk's end")
	}
	return err
}

func (s *nfcStream) next() (vmdk.Extent, error) {
	for e, err := range s.reader.Extents() {
		return e, err
	}
	return vmdk.Extent{}, io.EOF
}

func (s *nfcStream) close() {
	s.cancel()
	s.body.Close()
}
