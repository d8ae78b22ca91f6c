package agentwire

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// tape is a connection that was recorded.
type tape struct {
	net.Conn
	r io.Reader
}

func (t tape) Read(p []byte) (int, error) { return t.r.Read(p) }
func (t tape) Close() error               { return nil }

func play(b []byte) *Link { return NewLink(tape{r: bytes.NewReader(b)}) }

func TestHeader(t *testing.T) {
	for _, h := range []Header{
		{Len: 40, Kind: Request, Op: OpWrite, ID: 7}, {Kind: Ping}, {Len: 4, Kind: Window, ID: math.MaxUint64}, {Len: MaxFrame, Kind: Data, ID: 2},
	} {
		b := h.Append(nil)
		require.Len(t, b, HeaderSize)
		got, err := ParseHeader(b)
		require.NoError(t, err)
		require.Equal(t, h, got)
	}
	for why, h := range map[string]Header{
		"no kind": {}, "a kind of the future": {Kind: kinds}, "too long": {Len: MaxFrame + 1, Kind: Data, ID: 2},
		"a long ping": {Len: 1, Kind: Ping}, "a short request": {Len: 15, Kind: Request, Op: OpStart, ID: 2},
		"a request without operation": {Len: 16, Kind: Request, ID: 2}, "an answer with one": {Kind: Result, Op: OpStart, ID: 2},
		"a call without number": {Kind: Result}, "a ping with one": {Kind: Ping, ID: 1},
	} {
		_, err := ParseHeader(h.Append(nil))
		require.ErrorIs(t, err, ErrProtocol, why)
	}
	b := Header{Kind: Ping}.Append(nil)
	b[6] = 1
	_, err := ParseHeader(b)
	require.ErrorIs(t, err, ErrProtocol, "reserved bytes")
}

// The numbers are on the wire: none may move.
func TestNumbersStay(t *testing.T) {
	require.EqualValues(t, []Op{1, 8, 9, 24, 25, 30, 31, 36}, []Op{OpMachine, OpRemove, OpMachines, OpNetworks, OpRead, OpSums, OpWrite, OpClose})
	require.EqualValues(t, []Kind{1, 3, 6, 11}, []Kind{Hello, Request, Data, GoAway})
	for o := Op(1); o < ops; o++ {
		require.NotEmpty(t, o.String(), "%d", o)
	}
}

func TestRuns(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 200 {
		p := make([]byte, rnd.IntN(MaxBulk/8)+1)
		for range rnd.IntN(20) {
			at := rnd.IntN(len(p))
			for i := range p[at:min(len(p), at+rnd.IntN(20000))] {
				p[at+i] = byte(rnd.Uint32())
			}
		}
		for _, skip := range []bool{true, false} {
			table, parts := Runs([]byte("head"), p, skip, nil)
			body := append(bytes.Clone(table[4:]), bytes.Join(parts, nil)...)
			l := play(body)
			runs, err := ReadRuns(l, len(body), len(p))
			require.NoError(t, err)
			got := bytes.Repeat([]byte{0xff}, len(p))
			at := 0
			for _, r := range runs {
				clear(got[at : at+r.Zeros])
				at += r.Zeros
				require.NoError(t, l.Fill(got[at:at+r.Data]))
				at += r.Data
			}
			require.True(t, bytes.Equal(p, got))
			if !skip {
				require.Len(t, parts, 1)
			}
		}
	}
	zeros := make([]byte, MaxBulk)
	_, parts := Runs(nil, zeros, true, nil)
	require.Empty(t, parts, "zeros don't travel")
	for i := 0; i < MaxBulk; i += 2 * zeroBlock {
		zeros[i] = 1
	}
	table, parts := Runs(nil, zeros, true, nil)
	_, err := ReadRuns(play(table), len(table)+MaxBulk/2, MaxBulk)
	require.NoError(t, err, "the worst that a sender makes is taken: %d pieces", len(parts))
}

func TestExtents(t *testing.T) {
	want := []dr.Extent{{Off: 0, Len: 64 << 10}, {Off: 1 << 40, Len: 512, Zero: true}, {Off: 1<<40 + 512, Len: 1}, {Off: 5, Len: 0}, {Off: 0, Len: math.MaxInt64}}
	var b []byte
	var at int64
	for _, e := range want {
		b = AppendExtent(b, e, at)
		at = e.End()
	}
	got, err := Extents(b)
	require.NoError(t, err)
	require.Equal(t, want, got, "also out of order: that is for the reader to judge")
	_, err = Extents(AppendExtent(nil, dr.Extent{Off: 1, Len: math.MaxInt64}, 0))
	require.ErrorIs(t, err, ErrProtocol)
	_, err = Extents(b[:len(b)-1])
	require.ErrorIs(t, err, ErrProtocol)
}

type own struct{ is error }

func (o own) Error() string        { return "an error of its own kind" }
func (o own) Is(target error) bool { return target == o.is }

func TestErrorsTravel(t *testing.T) {
	place := &dr.Error{Op: "read", Side: dr.SourceSide, Site: "hq", Machine: "m", Point: "p", Disk: "a", Off: 4096, Err: dr.ErrTorn, Remedy: "write it to the end"}
	for _, err := range []error{
		errors.New("plain"), io.EOF, place, fmt.Errorf("copy: %w", place), errors.Join(place, io.ErrUnexpectedEOF, dr.ErrBusy),
		dr.Permanent(errors.New("for good")), fmt.Errorf("x: %w", dr.Permanent(place)), &dr.Error{Op: "start", Off: -1, Err: dr.Permanent(errors.New("no"))},
		fmt.Errorf("two: %w and %w", dr.ErrInvalid, context.DeadlineExceeded), own{fs.ErrPermission}, fmt.Errorf("inner: %w", own{dr.ErrChangesLost}),
		&dr.Error{Op: "find", Err: own{dr.ErrNotFound}}, &fs.PathError{Op: "open", Path: "/x", Err: fs.ErrNotExist},
	} {
		got := DecodeError(EncodeError(err))
		require.Equal(t, err.Error(), got.Error())
		require.Equal(t, dr.IsPermanent(err), dr.IsPermanent(got), "%v", err)
		for _, s := range sentinels {
			require.Equal(t, errors.Is(err, s.err), errors.Is(got, s.err), "%v is %v", err, s.err)
		}
		var was, is *dr.Error
		require.Equal(t, errors.As(err, &was), errors.As(got, &is), "%v", err)
		if was != nil {
			a, b := *was, *is
			a.Err, b.Err = nil, nil
			require.Equal(t, a, b)
		}
	}
	require.Equal(t, io.EOF, DecodeError(EncodeError(io.EOF)), "the very one: readers compare it")
	require.Nil(t, EncodeError(nil))
}

func TestMonstrousErrorsAreClipped(t *testing.T) {
	err := errors.New(strings.Repeat("long ", 1<<20))
	require.Less(t, len(EncodeError(err)), MaxFault)
	deep := error(dr.ErrFenced)
	for range 1000 {
		deep = fmt.Errorf("and %w", deep)
	}
	b := EncodeError(deep)
	require.Less(t, len(b), MaxFault)
	require.ErrorIs(t, DecodeError(b), dr.ErrFenced, "what it is survives")
	wide := make([]error, 10000)
	for i := range wide {
		wide[i] = fmt.Errorf("%d: %w", i, dr.ErrBusy)
	}
	b = EncodeError(errors.Join(wide...))
	require.Less(t, len(b), MaxFault)
	require.ErrorIs(t, DecodeError(b), dr.ErrBusy)
}

func TestAgree(t *testing.T) {
	v, f, err := Agree(Greeting{Min: 1, Max: 9, Features: []string{"telepathy", FeatureRuns}})
	require.NoError(t, err)
	require.Equal(t, 1, v)
	require.Equal(t, []string{FeatureRuns}, f, "a client of an earlier version has no fences")
	for _, g := range []Greeting{{Min: 2, Max: 9}, {}, {Min: 0, Max: 0}} {
		_, _, err = Agree(g)
		require.ErrorIs(t, err, dr.ErrUnsupported)
	}
}

func TestTLSMustVerifyBothSides(t *testing.T) {
	cert := []tls.Certificate{{}}
	pool := x509.NewCertPool()
	good := &tls.Config{Certificates: cert, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	c, err := ServerTLS(good)
	require.NoError(t, err)
	require.EqualValues(t, tls.VersionTLS13, c.MinVersion)
	require.True(t, c.SessionTicketsDisabled)
	require.Zero(t, good.MinVersion, "the caller's is left alone")
	for why, c := range map[string]*tls.Config{
		"none": nil, "nothing asked": {Certificates: cert, ClientCAs: pool},
		"asked, not verified": {Certificates: cert, ClientCAs: pool, ClientAuth: tls.RequireAnyClientCert},
		"if given":            {Certificates: cert, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven},
		"by anybody":          {Certificates: cert, ClientAuth: tls.RequireAndVerifyClientCert},
		"no certificate":      {ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert},
		"another one later": {Certificates: cert, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }},
	} {
		_, err := ServerTLS(c)
		require.ErrorIs(t, err, dr.ErrInvalid, why)
	}
	for why, c := range map[string]*tls.Config{
		"none": nil, "believes anybody": {Certificates: cert, InsecureSkipVerify: true}, "no certificate": {},
	} {
		_, err := ClientTLS(c)
		require.ErrorIs(t, err, dr.ErrInvalid, why)
	}
}

func TestBufferLiesAsTheDiskDoes(t *testing.T) {
	b := NewBuffer()
	defer b.Free()
	for _, off := range []int64{0, 1, 512, 4095, 4096, 1<<40 + 513} {
		p := b.At(off, MaxBulk)
		require.Len(t, p, MaxBulk)
		require.Equal(t, MaxBulk, cap(p))
	}
}
