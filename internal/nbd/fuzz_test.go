package nbd

import (
	"bytes"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// script is a connection on which the client's bytes are there from the start,
// and nobody reads the server's.
type script struct {
	io.Reader
	sent int
}

func (s *script) Write(p []byte) (int, error)    { s.sent += len(p); return len(p), nil }
func (*script) Close() error                     { return nil }
func (*script) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (*script) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (*script) SetDeadline(time.Time) error      { return nil }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }

func option(n uint32, data []byte) []byte {
	return append(optionHeader{n, uint32(len(data))}.append(nil), data...)
}

// hello is what a good client says before its first request.
func hello(structured bool) []byte {
	b := []byte{0, 0, 0, 3}
	if structured {
		b = append(b, option(optStructuredReply, nil)...)
		b = append(b, option(optSetMetaContext, metaQuery{"", []string{contextAllocation}}.append(nil))...)
	}
	return append(b, option(optGo, infoQuery{items: []uint16{infoBlockSize}}.append(nil))...)
}

func FuzzHandshake(f *testing.F) {
	f.Add(hello(true))
	f.Add(hello(false))
	f.Add(append([]byte{0, 0, 0, 1}, option(optExportName, nil)...))
	f.Add(slices.Concat([]byte{0, 0, 0, 3}, option(optList, nil), option(optStartTLS, nil), option(optAbort, []byte("x"))))
	f.Add(slices.Concat([]byte{0, 0, 0, 3}, option(optStructuredReply, nil),
		option(optListMetaContext, metaQuery{"", []string{"base:", "x:y"}}.append(nil)), optionHeader{optInfo, 1 << 20}.append(nil)))
	f.Add([]byte{0, 0, 0, 3, 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T', 0, 0, 0, 6, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Server{Exports: []Export{{Description: "d", Device: &memDevice{data: make([]byte, 5000)}}}}
		s.serveConn(t.Context(), &script{Reader: bytes.NewReader(b)})
	})
}

func FuzzTransmission(f *testing.F) {
	req := func(r request, payload ...byte) []byte { return append(r.append(nil), payload...) }
	f.Add(true, req(request{cmd: cmdRead, length: 5000}))
	f.Add(false, req(request{cmd: cmdRead, offset: 4999, length: 1}))
	f.Add(true, slices.Concat(req(request{cmd: cmdWrite, flags: cmdFlagFUA, length: 3}, 1, 2, 3), req(request{cmd: cmdFlush}), req(request{cmd: cmdDisc})))
	f.Add(true, req(request{cmd: cmdBlockStatus, length: 5000, flags: cmdFlagReqOne}))
	f.Add(true, slices.Concat(req(request{cmd: cmdTrim, length: 1 << 31}), req(request{cmd: cmdWriteZeros, length: 4096, flags: cmdFlagNoHole}), req(request{cmd: cmdCache, length: 5})))
	f.Add(false, req(request{cmd: cmdWrite, length: 1<<32 - 1}, 1, 2))
	f.Add(false, req(request{cmd: cmdWrite, offset: 1<<64 - 1, length: MaxPayload}, 1, 2))
	f.Fuzz(func(t *testing.T, structured bool, b []byte) {
		const guard = 4096
		back := &memDevice{data: make([]byte, 5000)}
		v, err := OpenOverlay(back, OverlayOptions{MemoryLimit: 1 << 20})
		require.NoError(t, err)
		s := &Server{Exports: []Export{{Device: v}}, MaxInFlight: 4}
		conn := &script{Reader: io.MultiReader(bytes.NewReader(hello(structured)), bytes.NewReader(b))}
		s.serveConn(t.Context(), conn)
		// An answer is no longer than what was asked for: at most the whole
		// export for each header that was sent, and some text.
		if most := guard + (len(b)/requestSize+1)*(5000*2+300); conn.sent > most {
			t.Fatalf("%d bytes of requests were answered with %d", len(b), conn.sent)
		}
	})
}

func FuzzOptionData(f *testing.F) {
	f.Add(infoQuery{"name", []uint16{0, 3}}.append(nil))
	f.Add(metaQuery{"name", []string{"base:allocation", "x:"}}.append(nil))
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := parseInfoQuery(b); err == nil {
			require.Equal(t, b, q.append(nil))
		}
		if q, err := parseMetaQuery(b); err == nil {
			require.Equal(t, b, q.append(nil))
		}
	})
}

func FuzzOverlayHeader(f *testing.F) {
	f.Add(overlayHeader{12345, "some point"}.encode())
	f.Add(overlayHeader{}.encode())
	f.Add(make([]byte, overlayHeaderSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseOverlayHeader(b)
		if err != nil {
			require.ErrorIs(t, err, ErrNotOverlay)
			return
		}
		again, err := parseOverlayHeader(h.encode())
		require.NoError(t, err)
		require.Equal(t, h, again)
	})
}

// FuzzOverlayFile opens whatever comes: an error, or a disk whose blocks each
// come from the base, the file or nowhere.
func FuzzOverlayFile(f *testing.F) {
	const size = 10_000
	at := headerOffset(size) + overlayHeaderSize
	f.Add([]byte{}, []byte{})
	f.Add([]byte{0x12}, []byte("data"))
	f.Add([]byte{0x55, 0x55}, []byte{})
	f.Add([]byte{0x03}, []byte("data"))
	f.Fuzz(func(t *testing.T, states, data []byte) {
		file := &sparseFile{}
		base := &memDevice{data: picture(size, 1)}
		openTest(t, base, file)
		file.now = write{0, data[:min(len(data), size)]}.onto(file.now)
		file.now = write{at, states[:min(len(states), statePageSize)]}.onto(file.now)
		v := openTest(t, base, file)
		got := make([]byte, size)
		_, err := v.ReadAt(t.Context(), got, 0)
		if err != nil {
			require.ErrorIs(t, err, ErrNotOverlay)
			return
		}
		for b := range roundUp(size, overlayBlock) / overlayBlock {
			from, to := b*overlayBlock, min((b+1)*overlayBlock, size)
			st, _, err := v.states.run(from, 1)
			require.NoError(t, err)
			want := map[blockState][]byte{stateBase: base.data, stateData: file.now, stateZeroed: make([]byte, size)}[st]
			require.Equal(t, want[from:to], got[from:to])
		}
	})
}
