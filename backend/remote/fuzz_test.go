package remote

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// tape is a connection whose peer says what is on it, and listens to nothing.
type tape struct {
	net.Conn
	r io.Reader
}

func (t tape) Read(p []byte) (int, error)  { return t.r.Read(p) }
func (t tape) Write(p []byte) (int, error) { return len(p), nil }
func (t tape) Close() error                { return nil }

// unhurried ends only when all calls that were read have ended, or for a while.
type unhurried struct {
	io.Reader
	x *session
}

func (u unhurried) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	for i := 0; err != nil && i < 100; i++ {
		runtime.Gosched()
		u.x.mu.Lock()
		idle := u.x.flying == 0
		u.x.mu.Unlock()
		if idle {
			break
		}
	}
	return n, err
}

func frame(h agentwire.Header, parts ...[]byte) []byte {
	b := bytes.Join(parts, nil)
	h.Len = uint32(len(b))
	return append(h.Append(nil), b...)
}

func request(id uint64, op agentwire.Op, handle uint64, arg any) []byte {
	head := agentwire.AppendRequestHead(nil, 10*time.Millisecond, handle)
	var b []byte
	if s, ok := arg.(agentwire.Span); ok {
		b = s.Append(nil)
		if op == agentwire.OpWrite {
			var parts [][]byte
			b, parts = agentwire.Runs(b, bytes.Repeat([]byte{1}, int(s.N)), true, nil)
			b = append(b, bytes.Join(parts, nil)...)
		}
	} else {
		b, _ = json.Marshal(arg)
	}
	return frame(agentwire.Header{Kind: agentwire.Request, Op: op, ID: id}, head, b)
}

// FuzzServer says anything to a server, behind the greeting.
func FuzzServer(f *testing.F) {
	point := &dr.Point{ID: "p", Time: time.Unix(1, 0)}
	all := request(2, agentwire.OpCapture, 0, argument{Machine: "m", Name: "p"})
	all = append(all, request(3, agentwire.OpRead, 1, agentwire.Span{Off: 1, N: 5000, Disk: "a"})...)
	all = append(all, request(4, agentwire.OpChanges, 1, argument{Disk: "a", Point: point})...)
	all = append(all, frame(agentwire.Header{Kind: agentwire.Window, ID: 4}, []byte{0, 0, 1, 0})...)
	all = append(all, frame(agentwire.Header{Kind: agentwire.Cancel, ID: 4})...)
	f.Add(all)
	w := request(2, agentwire.OpDraft, 0, argument{Machine: "m", Point: point})
	w = append(w, request(3, agentwire.OpWrite, 1, agentwire.Span{N: 5000, Disk: "a"})...)
	w = append(w, request(4, agentwire.OpZero, 1, agentwire.Span{N: 1 << 40, Disk: "a"})...)
	w = append(w, request(5, agentwire.OpCommit, 1, argument{Point: point})...)
	w = append(w, request(6, agentwire.OpClose, 1, argument{})...)
	f.Add(w)
	for op := agentwire.Op(1); op.Known(); op++ {
		f.Add(request(2, op, 1, argument{Machine: "m", Name: "p", Point: point, Disk: "a", Placement: &backend.Placement{Key: "k"}}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := memory.New(memory.Options{})
		if err := m.Add(dr.Machine{ID: "m", Power: dr.Off, Disks: []dr.Disk{{ID: "a", Size: 1 << 20}}}); err != nil {
			t.Fatal(err)
		}
		s := newServer(m, ServeOptions{Buffers: 2, Bulk: 2})
		x := newSession(s, "token", &guest{cert: &x509.Certificate{}}, []string{agentwire.FeatureRuns})
		l := agentwire.NewLink(tape{r: unhurried{bytes.NewReader(b), x}})
		if err := x.join(l); err != nil {
			t.Fatal(err)
		}
		x.serve(l, agentwire.NewPatient(nil, 0))
		select {
		case <-x.over:
		case <-time.After(10 * time.Second):
			t.Fatal("what it had open isn't closed")
		}
		if len(x.bulk)+len(s.buffers)+x.flying != 0 {
			t.Fatalf("%d calls, %d and %d buffers are not given back", x.flying, len(x.bulk), len(s.buffers))
		}
	})
}

// FuzzClient says anything to a client that has calls of every kind under way.
func FuzzClient(f *testing.F) {
	result := func(id uint64, parts ...[]byte) []byte {
		return frame(agentwire.Header{Kind: agentwire.Result, ID: id}, parts...)
	}
	f.Add(append(result(2, readAnswer(bytes.Repeat([]byte{0, 1}, 4096), nil, true)...), result(3, []byte("{}"))...))
	f.Add(append(frame(agentwire.Header{Kind: agentwire.Data, ID: 4}, agentwire.AppendExtent(nil, dr.Extent{Off: 1, Len: 2}, 0)), result(4, []byte("null"))...))
	f.Add(frame(agentwire.Header{Kind: agentwire.Failure, ID: 2}, agentwire.EncodeError(dr.ErrTorn)))
	f.Add(result(5, make([]byte, 64)))
	f.Add(frame(agentwire.Header{Kind: agentwire.GoAway}))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWire(agentwire.Terms{Calls: 8, Bulk: 8, Links: 1})
		l := w.add(agentwire.NewLink(tape{r: bytes.NewReader(b)}))
		ctx := context.Background()
		var ps []*pending
		for _, op := range []agentwire.Op{agentwire.OpRead, agentwire.OpSettle, agentwire.OpExtents, agentwire.OpSums} {
			p, err := w.begin(ctx, op, 1, make([]byte, 8192))
			if err != nil {
				t.Fatal(err)
			}
			ps = append(ps, p)
		}
		w.fail(l.read())
		for _, p := range ps {
			if p.ready != nil {
				for {
					b, err := p.next(ctx)
					if b == nil || err != nil {
						break
					}
					_, _ = agentwire.Extents(b)
				}
				continue
			}
			if p.wait(ctx) == nil && p.op == agentwire.OpSettle {
				var s settled
				_ = agentwire.Decode(p.answer, &s)
			}
		}
	})
}
