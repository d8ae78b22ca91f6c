package qemu

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
)

// Evidence is a sign of life that a machine may give.
type Evidence interface {
	// Await waits until there is the sign or ctx ends, and tells what it saw.
	Await(ctx context.Context, m *Machine) (backend.Evidence, error)
	// String names what is waited for.
	String() string
	// Ports are the guest's TCP ports that must be forwarded for it, and the
	// one that it must be able to call in at; 0: none.
	Ports() (forward []int, hello int)
}

var errFailed = errors.New("the machine failed, and tries again")

// Await waits for all of the evidence, each for itself. It ends at once when the
// machine fails. What was seen comes in the order of the arguments, also with an
// error: then without those that were not.
func (m *Machine) Await(ctx context.Context, all ...Evidence) ([]backend.Evidence, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	failed := m.Failed()
	go func() {
		select {
		case <-failed:
			cancel(cmp.Or(m.Err(), errFailed))
		case <-ctx.Done():
		}
	}()
	type result struct {
		i    int
		seen backend.Evidence
		err  error
	}
	results := make(chan result, len(all))
	for i, e := range all {
		go func() {
			seen, err := e.Await(ctx, m)
			results <- result{i, seen, err}
		}()
	}
	seen := make([]*backend.Evidence, len(all))
	var errs error
	for range all {
		r := <-results
		if r.err == nil {
			seen[r.i] = &r.seen
			continue
		}
		if errs == nil {
			errs = fmt.Errorf("%s: %w", all[r.i], r.err)
			cancel(r.err) // one is missing: the others don't matter
		}
	}
	var out []backend.Evidence
	for _, s := range seen {
		if s != nil {
			out = append(out, *s)
		}
	}
	if errs == nil {
		errs = m.Err() // it came up, and fell
	}
	return out, errs
}

// Serial is text at the serial port that matches, the last 256 KiB of it.
type Serial struct{ Match *regexp.Regexp }

func (s Serial) String() string { return fmt.Sprintf("serial text %q", s.Match) }

// Ports implements Evidence.
func (Serial) Ports() ([]int, int) { return nil, 0 }

// Await implements Evidence.
func (s Serial) Await(ctx context.Context, m *Machine) (backend.Evidence, error) {
	for {
		text, more := m.serial.Text()
		if at := s.Match.FindString(text); at != "" {
			return backend.Evidence{Kind: "serial", What: "the console says " + strconv.Quote(clip(at))}, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return backend.Evidence{}, context.Cause(ctx)
		}
	}
}

// pace is the time from one try to connect to the next. With attempt it bounds how
// many a guest that has just come up finds waiting: ten.
const pace = 500 * time.Millisecond

// TCP is a port of the guest that answers. A connection alone proves nothing: it
// is QEMU that accepts it. So the guest must say something, or hold the connection
// open until it was asked.
type TCP struct {
	Port int
	Send string         // what is sent first; may be ""
	Want *regexp.Regexp // what must come back; nil: any byte
}

func (t TCP) String() string { return fmt.Sprintf("TCP port %d", t.Port) }

// Ports implements Evidence.
func (t TCP) Ports() ([]int, int) { return []int{t.Port}, 0 }

// Await implements Evidence.
func (t TCP) Await(ctx context.Context, m *Machine) (backend.Evidence, error) {
	return again(ctx, m, t.Port, func(ctx context.Context, address string) (backend.Evidence, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return backend.Evidence{}, err
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		if _, err := io.WriteString(conn, t.Send); err != nil {
			return backend.Evidence{}, err
		}
		said, buf := []byte(nil), make([]byte, 4<<10)
		for len(said) < 64<<10 {
			n, err := conn.Read(buf)
			said = append(said, buf[:n]...)
			if n > 0 {
				if t.Want == nil {
					return t.saw(said), nil
				}
				if at := t.Want.Find(said); at != nil {
					return t.saw(at), nil
				}
			}
			if err != nil {
				return backend.Evidence{}, fmt.Errorf("it said %q, then: %w", clip(printable(said)), err)
			}
		}
		return backend.Evidence{}, errors.New("it said much, and not what was wanted")
	})
}

func (t TCP) saw(b []byte) backend.Evidence {
	return backend.Evidence{Kind: "tcp", What: fmt.Sprintf("port %d answers %q", t.Port, clip(printable(b)))}
}

// HTTP is a page of the guest that answers with status 200.
type HTTP struct {
	Port int
	Path string         // "": /
	Want *regexp.Regexp // in the first 64 KiB of the body; nil: anything
}

func (h HTTP) String() string { return fmt.Sprintf("HTTP port %d, %s", h.Port, h.Path) }

// Ports implements Evidence.
func (h HTTP) Ports() ([]int, int) { return []int{h.Port}, 0 }

// Await implements Evidence.
func (h HTTP) Await(ctx context.Context, m *Machine) (backend.Evidence, error) {
	return again(ctx, m, h.Port, func(ctx context.Context, address string) (backend.Evidence, error) {
		u := url.URL{Scheme: "http", Host: address, Path: h.Path}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return backend.Evidence{}, err
		}
		// Neither proxies nor connections that were made for others, and no way
		// to another address.
		client := http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		res, err := client.Do(req)
		if err != nil {
			return backend.Evidence{}, err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(bufio.NewReader(io.LimitReader(res.Body, 64<<10)))
		if err != nil {
			return backend.Evidence{}, err
		}
		at := body
		if h.Want != nil {
			at = h.Want.Find(body)
		}
		if res.StatusCode != http.StatusOK || at == nil {
			return backend.Evidence{}, fmt.Errorf("it answers %s: %q", res.Status, clip(printable(body)))
		}
		return backend.Evidence{Kind: "http", What: fmt.Sprintf("port %d answers %s: %q", h.Port, res.Status, clip(printable(at)))}, nil
	})
}

// attempt bounds one try: QEMU accepts for a guest that isn't there yet, and then
// nothing comes. A guest that is emulated needs its time.
const attempt = 5 * time.Second

// again tries until it succeeds or ctx ends; then the error has the last reason.
// A try begins every pace, however long the ones before hang: one that was begun
// before the guest listens is answered late, if at all.
func again(ctx context.Context, m *Machine, port int, try func(ctx context.Context, address string) (backend.Evidence, error)) (backend.Evidence, error) {
	address, err := m.Port(ctx, port)
	if err != nil {
		return backend.Evidence{}, err
	}
	type result struct {
		seen backend.Evidence
		err  error
	}
	var tries sync.WaitGroup
	defer tries.Wait()
	trying, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result)
	begin := func() {
		tries.Go(func() {
			one, cancel := context.WithTimeout(trying, attempt)
			defer cancel()
			seen, err := try(one, address)
			select {
			case results <- result{seen, err}:
			case <-trying.Done():
			}
		})
	}
	begin()
	next := time.NewTicker(pace)
	defer next.Stop()
	var last error
	for {
		select {
		case r := <-results:
			if r.err == nil {
				return r.seen, nil
			}
			if ctx.Err() == nil {
				last = r.err
			}
		case <-next.C:
			begin()
		case <-ctx.Done():
			if last == nil {
				return backend.Evidence{}, context.Cause(ctx)
			}
			return backend.Evidence{}, fmt.Errorf("%w; the last try: %w", context.Cause(ctx), last)
		}
	}
}
