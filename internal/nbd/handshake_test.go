package nbd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOptions(t *testing.T) {
	dev := &memDevice{data: make([]byte, 1000)}
	sock := serve(t, &Server{Exports: []Export{
		{Name: "a", Description: "first", Device: dev}, {Name: "b", Device: dev, ReadOnly: true},
	}})
	info := func(name string, items ...uint16) []byte { return infoQuery{name, items}.append(nil) }
	meta := func(name string, q ...string) []byte { return metaQuery{name, q}.append(nil) }

	for _, c := range []struct {
		name   string
		before []uint32 // options without data, sent first
		option uint32
		data   []byte
		kinds  []uint32
	}{
		{"list", nil, optList, nil, []uint32{repServer, repServer, repAck}},
		{"list with data", nil, optList, []byte{1}, []uint32{repErrInvalid}},
		{"unknown option", nil, 4711, []byte("xyz"), []uint32{repErrUnsup}},
		{"extended headers", nil, 11, nil, []uint32{repErrUnsup}},
		{"too long", nil, optInfo, make([]byte, maxOption+1), []uint32{repErrTooBig}},
		{"TLS that isn't there", nil, optStartTLS, nil, []uint32{repErrUnsup}},
		{"structured with data", nil, optStructuredReply, []byte{1}, []uint32{repErrInvalid}},
		{"info", nil, optInfo, info("a"), []uint32{repInfo, repAck}},
		{"info, all items, some unknown", nil, optInfo, info("a", infoName, infoDescription, infoBlockSize, 99), []uint32{repInfo, repInfo, repInfo, repInfo, repAck}},
		{"info of a stranger", nil, optInfo, info("c"), []uint32{repErrUnknown}},
		{"no default among two", nil, optInfo, info(""), []uint32{repErrUnknown}},
		{"info too short", nil, optInfo, []byte{0, 0, 0}, []uint32{repErrInvalid}},
		{"info whose name is too long", nil, optInfo, info(strings.Repeat("x", maxString+1)), []uint32{repErrInvalid}},
		{"info whose name lies about its length", nil, optInfo, binary.BigEndian.AppendUint32(nil, 1<<31), []uint32{repErrInvalid}},
		{"info with a NUL", nil, optInfo, info("a\x00"), []uint32{repErrInvalid}},
		{"contexts without structured", nil, optSetMetaContext, meta("a", contextAllocation), []uint32{repErrInvalid}},
		{"set", []uint32{optStructuredReply}, optSetMetaContext, meta("a", contextAllocation), []uint32{repMetaContext, repAck}},
		{"set twice the same", []uint32{optStructuredReply}, optSetMetaContext, meta("a", contextAllocation, contextAllocation), []uint32{repMetaContext, repAck}},
		{"set a wildcard", []uint32{optStructuredReply}, optSetMetaContext, meta("a", "base:"), []uint32{repAck}},
		{"set nothing", []uint32{optStructuredReply}, optSetMetaContext, meta("a"), []uint32{repAck}},
		{"set for a stranger", []uint32{optStructuredReply}, optSetMetaContext, meta("c", contextAllocation), []uint32{repErrUnknown}},
		{"list all contexts", []uint32{optStructuredReply}, optListMetaContext, meta("a"), []uint32{repMetaContext, repAck}},
		{"list a wildcard", []uint32{optStructuredReply}, optListMetaContext, meta("a", "base:"), []uint32{repMetaContext, repAck}},
		{"list other namespaces", []uint32{optStructuredReply}, optListMetaContext, meta("a", "qemu:dirty"), []uint32{repAck}},
		{"list without a namespace", []uint32{optStructuredReply}, optListMetaContext, meta("a", "base"), []uint32{repErrInvalid}},
		{"abort", nil, optAbort, []byte("bye"), []uint32{repAck}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := dialRaw(t, sock)
			for _, o := range c.before {
				require.Equal(t, repAck, cl.final(o, nil))
			}
			var kinds []uint32
			for _, a := range cl.option(c.option, c.data) {
				kinds = append(kinds, a.kind)
			}
			require.Equal(t, c.kinds, kinds)
			if c.option == optAbort {
				cl.ended()
				return
			}
			// Whatever was refused, the conversation goes on.
			cl.negotiate("b", true)
			require.Zero(t, cl.do(request{cmd: cmdRead, length: 10}, nil).errno)
		})
	}
}

func TestInfoTellsBlockSizes(t *testing.T) {
	cl := dialRaw(t, serve(t, &Server{Exports: []Export{{Device: &memDevice{data: make([]byte, 3)}}}}))
	all := cl.option(optInfo, infoQuery{items: []uint16{infoBlockSize}}.append(nil))
	require.Len(t, all, 3)
	got, err := parseBlockSizeInfo(all[1].data[2:])
	require.NoError(t, err)
	require.Equal(t, blockSizeInfo{minimum: 1, preferred: 64 << 10, maxPayload: 32 << 20}, got)
	_, err = parseBlockSizeInfo(all[1].data)
	require.ErrorIs(t, err, errProtocol)
}

// tiredListener fails for a while, as one does without file descriptors.
type tiredListener struct {
	net.Listener
	failures int
}

func (l *tiredListener) Accept() (net.Conn, error) {
	if l.failures--; l.failures >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept", syscall.EMFILE)}
	}
	return nil, net.ErrClosed
}

func (l *tiredListener) Close() error   { return nil }
func (l *tiredListener) Addr() net.Addr { return &net.UnixAddr{} }

func TestServeOutlivesPassingFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &tiredListener{failures: 12}
		require.ErrorIs(t, (&Server{}).Serve(t.Context(), l), net.ErrClosed)
		require.Equal(t, -1, l.failures)
	})
}

func TestExportName(t *testing.T) {
	sock := serve(t, &Server{Exports: []Export{{Name: "only", Device: &memDevice{data: make([]byte, 12345)}}}})
	for _, flags := range []uint32{0, flagFixedNewstyle, flagFixedNewstyle | flagNoZeroes} {
		for _, name := range []string{"only", ""} {
			conn, err := net.Dial("unix", sock)
			require.NoError(t, err)
			defer conn.Close()
			cl := greetRaw(t, conn, flags)
			cl.write(append(optionHeader{optExportName, uint32(len(name))}.append(nil), name...))
			b := make([]byte, 10)
			cl.read(b)
			i, err := parseExportInfo(b)
			require.NoError(t, err)
			require.EqualValues(t, 12345, i.size)
			require.Zero(t, i.flags&sendDF, "no DF without structured replies")
			if flags&flagNoZeroes == 0 {
				cl.read(make([]byte, 124))
			}
			require.Zero(t, cl.do(request{cmd: cmdRead, length: 10}, nil).errno)
		}
	}
	cl := dialRaw(t, sock)
	cl.write(append(optionHeader{optExportName, 4}.append(nil), "none"...))
	cl.ended()
}

func TestHandshakeViolationsEndIt(t *testing.T) {
	sock := serve(t, &Server{Exports: []Export{{Device: &memDevice{}}}})
	conn, err := net.Dial("unix", sock)
	require.NoError(t, err)
	defer conn.Close()
	greetRaw(t, conn, 1<<7).ended() // unknown client flag

	cl := dialRaw(t, sock)
	cl.write([]byte("GET / HTTP/1.1\r\n"))
	cl.ended()

	cl = dialRaw(t, sock)
	cl.write(optionHeader{optInfo, 1 << 30}.append(nil))
	cl.ended()
}

func TestContextBelongsToItsExport(t *testing.T) {
	dev := &memDevice{data: make([]byte, 1000)}
	sock := serve(t, &Server{Exports: []Export{{Name: "a", Device: dev}, {Name: "b", Device: dev}}})
	cl := dialRaw(t, sock)
	require.Equal(t, repAck, cl.final(optStructuredReply, nil))
	cl.structured = true
	require.Len(t, cl.option(optSetMetaContext, metaQuery{"a", []string{contextAllocation}}.append(nil)), 2)
	require.Equal(t, repAck, cl.final(optGo, infoQuery{name: "b"}.append(nil)))
	require.Equal(t, EINVAL, cl.do(request{cmd: cmdBlockStatus, length: 10}, nil).errno)
}

func TestLookup(t *testing.T) {
	var open atomic.Int32
	s := &Server{Lookup: func(_ context.Context, name string) (Export, error) {
		switch name {
		case "broken":
			return Export{}, errDisk
		case "point":
			open.Add(1)
			return Export{Name: "canonical", Device: &memDevice{data: make([]byte, 5)}, Release: func() { open.Add(-1) }}, nil
		}
		return Export{}, ErrNoExport
	}}
	sock, stop := serveUntil(t, s)
	cl := dialRaw(t, sock)
	require.Equal(t, repErrUnknown, cl.final(optInfo, infoQuery{name: "nothing"}.append(nil)))
	require.Equal(t, repErrUnknown, cl.final(optGo, infoQuery{name: "broken"}.append(nil)))
	all := cl.option(optInfo, infoQuery{"point", []uint16{infoName}}.append(nil))
	require.Equal(t, "\x00\x01canonical", string(all[1].data))
	cl.negotiate("point", true)
	require.Zero(t, cl.do(request{cmd: cmdBlockStatus, length: 5}, nil).errno)
	require.EqualValues(t, 1, open.Load(), "only the connection's use is left")
	stop()
	require.Zero(t, open.Load())
}

func TestTLSIsForced(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"dr.example"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)

	want := picture(100_000, 1)
	sock := serve(t, &Server{
		Exports: []Export{{Device: &memDevice{data: want}}},
		TLS:     &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
	})
	cl := dialRaw(t, sock)
	for _, o := range []uint32{optList, optInfo, optGo, optStructuredReply, optSetMetaContext, 999} {
		require.Equal(t, repErrTLSReqd, cl.final(o, nil))
	}
	require.Equal(t, repErrInvalid, cl.final(optStartTLS, []byte{1}))
	require.Equal(t, repAck, cl.final(optStartTLS, nil))
	secure := tls.Client(cl.conn, &tls.Config{RootCAs: roots, ServerName: "dr.example"})
	cl.conn = secure
	cl.r.Reset(secure)
	require.Equal(t, repErrInvalid, cl.final(optStartTLS, nil), "a second time")
	cl.negotiate("", true)
	equalBytes(t, want, cl.do(request{cmd: cmdRead, length: uint32(len(want))}, nil).data, "over TLS")
	cl.write(request{cmd: cmdDisc}.append(nil))
	_, err = cl.r.ReadByte()
	require.ErrorIs(t, err, io.EOF, "TLS is shut down in order")

	cl = dialRaw(t, sock)
	cl.write(optionHeader{optExportName, 0}.append(nil))
	cl.ended()
}

// A client that does not finish its handshake is cut off, and no sooner.
func TestHandshakeTimeout(t *testing.T) {
	for _, part := range [][]byte{nil, {0, 0}, {0, 0, 0, 3, 'I', 'H'}} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			s := &Server{Exports: []Export{{Device: &memDevice{}}}, HandshakeTimeout: time.Minute}
			go s.serveConn(t.Context(), server)
			_, err := io.ReadFull(client, make([]byte, greetingSize))
			require.NoError(t, err)
			if part != nil {
				_, err = client.Write(part)
				require.NoError(t, err)
			}
			start := time.Now()
			_, err = client.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			require.Equal(t, time.Minute, time.Since(start))
		})
	}
}

func TestServeRefusesBadExports(t *testing.T) {
	dev := &memDevice{}
	for _, e := range [][]Export{
		{{Name: "no device"}},
		{{Name: "twice", Device: dev}, {Name: "twice", Device: dev}},
		{{Name: "a\x00b", Device: dev}},
		{{Name: strings.Repeat("x", maxString+1), Device: dev}},
		{{Description: "\xff", Device: dev}},
		{{Device: fileDevice{size: -1}}},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.Error(t, (&Server{Exports: e}).Serve(t.Context(), l))
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed, "the listener is closed in any case")
	}
}

func TestListenerFailure(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	err = (&Server{}).Serve(t.Context(), l)
	require.True(t, errors.Is(err, net.ErrClosed), err)
}
