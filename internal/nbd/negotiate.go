package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
)

// ErrTLSRequired is returned, wrapped, by Dial and List for a server that says
// nothing in clear text. The remedy is Options.TLS, or nbds in a URI.
var ErrTLSRequired = errors.New("nbd: the server requires TLS")

// maxOptionReply is more than any reply to an option needs: a name and a
// description of maxString bytes each, and their lengths.
const maxOptionReply = 2*maxString + 64

// maxReplies bounds the replies to one option; a list of exports is the longest.
const maxReplies = 1 << 14

// negotiation is a client's side of the handshake. It reads what it needs and
// not a byte more.
type negotiation struct {
	raw, conn net.Conn // conn is raw, or TLS above it
	fixed     bool
	noZeroes  bool

	structured bool
	contexts   map[string]uint32
	export     exportInfo
	blocks     blockSizeInfo
	describe   string
}

// begin says hello, and starts TLS if it is wanted.
func (n *negotiation) begin(ctx context.Context, o Options) error {
	var b [greetingSize]byte
	if _, err := io.ReadFull(n.conn, b[:]); err != nil {
		return err
	}
	g, err := parseGreeting(&b)
	if err != nil {
		return err
	}
	n.fixed, n.noZeroes = g.flags&flagFixedNewstyle != 0, g.flags&flagNoZeroes != 0
	mine := uint32(g.flags) & (flagFixedNewstyle | flagNoZeroes)
	if _, err := n.conn.Write(binary.BigEndian.AppendUint32(nil, mine)); err != nil {
		return err
	}
	if o.TLS != nil {
		return n.startTLS(ctx, o)
	}
	return nil
}

// choose agrees on everything about o.Export and enters the transmission.
func (n *negotiation) choose(o Options) error {
	n.blocks = blockSizeInfo{minimum: 1, preferred: 4096, maxPayload: MaxPayload}
	if !n.fixed {
		return n.exportName(o.Export) // such a server knows no other option
	}
	switch err := n.simpleOption(optStructuredReply); {
	case err == nil:
		n.structured = true
		if err := n.setContexts(o); err != nil {
			return err
		}
	case !isRefusal(err):
		return err
	}
	err := n.goTo(o.Export)
	var r *optionError
	if errors.As(err, &r) && r.kind == repErrUnsup {
		return n.exportName(o.Export)
	}
	return err
}

// setContexts asks for base:allocation and what the caller wants besides. A
// server that refuses the option has no contexts.
func (n *negotiation) setContexts(o Options) error {
	n.contexts = map[string]uint32{}
	want := append([]string{ContextAllocation}, o.Contexts...)
	slices.Sort(want)
	want = slices.Compact(want)
	err := n.option(optSetMetaContext, metaQuery{o.Export, want}.append(nil), func(kind uint32, data []byte) error {
		if kind != repMetaContext || len(data) < 5 {
			return fmt.Errorf("%w: reply %#x of %d bytes to SET_META_CONTEXT", errProtocol, kind, len(data))
		}
		id, name := binary.BigEndian.Uint32(data), string(data[4:])
		if _, twice := n.contexts[name]; twice || !slices.Contains(want, name) {
			return fmt.Errorf("%w: metadata context %.100q was not asked for, or comes twice", errProtocol, name)
		}
		for other, taken := range n.contexts {
			if taken == id {
				return fmt.Errorf("%w: metadata contexts %q and %q have the same number", errProtocol, other, name)
			}
		}
		n.contexts[name] = id
		return nil
	})
	if isRefusal(err) {
		clear(n.contexts)
		return nil // GO tells what is really wrong, if anything
	}
	return err
}

// goTo is the GO option.
func (n *negotiation) goTo(name string) error {
	q := infoQuery{name, []uint16{infoDescription, infoBlockSize}}
	told := false
	err := n.option(optGo, q.append(nil), func(kind uint32, data []byte) (err error) {
		if kind != repInfo || len(data) < 2 {
			return fmt.Errorf("%w: reply %#x of %d bytes to GO", errProtocol, kind, len(data))
		}
		item, data := binary.BigEndian.Uint16(data), data[2:]
		switch item {
		case infoExport:
			told = true
			n.export, err = parseExportInfo(data)
		case infoBlockSize:
			if n.blocks, err = parseBlockSizeInfo(data); err == nil {
				n.blocks, err = n.blocks.usable()
			}
		case infoDescription:
			if n.describe = string(data); checkString(n.describe, "description") != nil {
				n.describe = ""
			}
		}
		return err
	})
	if err == nil && !told {
		err = fmt.Errorf("%w: GO was not answered with the export's size", errProtocol)
	}
	if err != nil {
		return err
	}
	return n.export.check()
}

// exportName is the old way: the answer is the export, or the connection's end.
func (n *negotiation) exportName(name string) error {
	b := append(optionHeader{optExportName, uint32(len(name))}.append(nil), name...)
	if _, err := n.conn.Write(b); err != nil {
		return err
	}
	b = make([]byte, 10+124)
	if n.noZeroes {
		b = b[:10]
	}
	if _, err := io.ReadFull(n.conn, b); err != nil {
		return err
	}
	var err error
	if n.export, err = parseExportInfo(b[:10]); err != nil {
		return err
	}
	return n.export.check()
}

func (i exportInfo) check() error {
	if i.size > math.MaxInt64 {
		return fmt.Errorf("%w: an export of %d bytes", errProtocol, i.size)
	}
	if i.flags&sendHasFlags == 0 {
		return fmt.Errorf("%w: transmission flags %#x lack HAS_FLAGS", errProtocol, i.flags)
	}
	return nil
}

// usable applies the protocol's "Size constraints". What was told as the limit
// is lowered to what this package ever sends.
func (i blockSizeInfo) usable() (blockSizeInfo, error) {
	m := i.minimum
	if m == 0 || m&(m-1) != 0 || m > 64<<10 || i.maxPayload < m {
		return i, fmt.Errorf("%w: block sizes from %d to %d", errProtocol, m, i.maxPayload)
	}
	i.maxPayload = min(i.maxPayload, MaxPayload) / m * m
	return i, nil
}

// optionError is a server's refusal of an option.
type optionError struct {
	option, kind uint32
	text         string
}

func (e *optionError) Error() string {
	why := fmt.Sprintf("error %#x", e.kind)
	switch e.kind {
	case repErrUnsup:
		why = "not supported"
	case repErrPolicy:
		why = "forbidden by the server's policy"
	case repErrInvalid:
		why = "invalid"
	case repErrTLSReqd:
		why = "TLS is required"
	case repErrUnknown:
		why = "no such export"
	case repErrTooBig:
		why = "too big"
	}
	if e.text != "" {
		why += fmt.Sprintf(" (the server says %.500q)", e.text)
	}
	return fmt.Sprintf("option %d: %s", e.option, why)
}

func (e *optionError) Is(target error) bool {
	return e.kind == repErrUnknown && target == ErrNoExport ||
		e.kind == repErrTLSReqd && target == ErrTLSRequired ||
		e.kind == repErrUnsup && target == errors.ErrUnsupported
}

// isRefusal reports that the server declined an option that can be done
// without. That TLS is missing is no such thing.
func isRefusal(err error) bool {
	var r *optionError
	return errors.As(err, &r) && r.kind != repErrTLSReqd
}

// simpleOption is an option without data, whose answer has none.
func (n *negotiation) simpleOption(option uint32) error {
	return n.option(option, nil, func(kind uint32, _ []byte) error {
		return fmt.Errorf("%w: reply %#x to option %d", errProtocol, kind, option)
	})
}

// option sends one and calls each for every reply but the last. The data is
// valid during the call only.
func (n *negotiation) option(option uint32, data []byte, each func(kind uint32, data []byte) error) error {
	b := append(optionHeader{option, uint32(len(data))}.append(nil), data...)
	if _, err := n.conn.Write(b); err != nil {
		return err
	}
	for range maxReplies {
		var hdr [optionReplySize]byte
		if _, err := io.ReadFull(n.conn, hdr[:]); err != nil {
			return err
		}
		r, err := parseOptionReply(&hdr)
		if err != nil {
			return err
		}
		if r.option != option || r.length > maxOptionReply {
			return fmt.Errorf("%w: reply of %d bytes to option %d, after option %d was sent", errProtocol, r.length, r.option, option)
		}
		data := make([]byte, r.length)
		if _, err := io.ReadFull(n.conn, data); err != nil {
			return err
		}
		switch {
		case r.kind == repAck:
			return nil
		case r.kind&repErrBit != 0:
			return &optionError{option, r.kind, string(data)}
		}
		if err := each(r.kind, data); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d replies to option %d", errProtocol, maxReplies, option)
}
