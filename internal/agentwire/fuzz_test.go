package agentwire

import (
	"errors"
	"testing"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func FuzzExtents(f *testing.F) {
	f.Add(AppendExtent(AppendExtent(nil, dr.Extent{Off: 512, Len: 512}, 0), dr.Extent{Off: 4096, Len: 1, Zero: true}, 1024))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, err := Extents(b)
		if err != nil {
			return
		}
		var again []byte
		var at int64
		for _, e := range es {
			if e.Off < 0 || e.Len < 0 || e.End() < e.Off {
				t.Fatalf("%+v", e)
			}
			again = AppendExtent(again, e, at)
			at = e.End()
		}
		if len(again) > len(b) {
			t.Fatal("longer than what was read")
		}
	})
}

func FuzzFault(f *testing.F) {
	f.Add(EncodeError(&dr.Error{Op: "read", Err: errors.Join(dr.ErrTorn, errors.New("x"))}))
	f.Add(EncodeError(dr.Permanent(dr.ErrBusy)))
	f.Add([]byte(`{"name":"eof"}`))
	f.Add([]byte(`{"at":{"op":"x"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := DecodeError(b)
		if err == nil {
			t.Fatal("an error that is none")
		}
		_ = err.Error()
		_ = dr.IsPermanent(err)
	})
}

// FuzzFrame reads anything as frames, as a server does up to the call.
func FuzzFrame(f *testing.F) {
	table, _ := Runs(Span{Off: 1, N: 3, Disk: "a"}.Append(AppendRequestHead(nil, 1e9, 4)), []byte("abc"), true, nil)
	body := append(table, "abc"...)
	f.Add(append(Header{Kind: Request, Op: OpWrite, ID: 2, Len: uint32(len(body))}.Append(nil), body...))
	f.Add(Header{Kind: Ping}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := play(b)
		for {
			h, err := l.Next()
			if err != nil {
				return
			}
			left := int(h.Len)
			if h.Kind != Request {
				p, err := l.Payload(left)
				if err != nil {
					return
				}
				if cap(p) > 2*len(b)+(32<<10) {
					t.Fatalf("%d bytes of memory for %d that came", cap(p), len(b))
				}
				continue
			}
			if _, _, err := ReadRequestHead(l); err != nil {
				return
			}
			s, left, err := ReadSpan(l, left-RequestHead)
			if err != nil || s.N < 0 || s.N > MaxBulk {
				return
			}
			runs, err := ReadRuns(l, left, int(s.N))
			if err != nil {
				return
			}
			all := 0
			for _, r := range runs {
				if r.Zeros < 0 || r.Data < 0 {
					t.Fatal(r)
				}
				all += r.Zeros + r.Data
				if err := l.Pieces(r.Data, func([]byte) {}); err != nil {
					return
				}
			}
			if all != int(s.N) {
				t.Fatalf("%d bytes of %d", all, s.N)
			}
		}
	})
}
