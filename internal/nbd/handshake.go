package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	// maxOption is the most option data that is kept: every valid option fits,
	// save a list of meta contexts that is longer than anybody needs.
	maxOption = 64 << 10
	// maxSkip is the most option data that is read only to be thrown away;
	// a client that announces more is cut off.
	maxSkip = 16 << 20
)

// handshake is the server's side of one negotiation and, when run returns true,
// its result. It reads the connection without a buffer, so that nothing sent in
// the clear before STARTTLS can be taken for something said under TLS.
type handshake struct {
	server *Server
	conn   net.Conn // replaced by STARTTLS
	secure bool

	noZeroes   bool
	structured bool
	contextFor string // the export that SET_META_CONTEXT named
	hasContext bool   // and whether it selected base:allocation

	export Export
	target target
	flags  uint16
	status bool // BLOCK_STATUS may be used
}

// within runs the negotiation with a deadline, and ends it early with ctx.
func (h *handshake) within(ctx context.Context, d time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	// The raw connection's deadline holds for TLS above it as well.
	raw := h.conn
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	ok, err := h.run(ctx)
	if !stop() && ctx.Err() != nil {
		return false, errors.Join(err, context.Cause(ctx))
	}
	return ok, err
}

// run answers options until the client chooses an export (true), or ends the
// negotiation (false).
func (h *handshake) run(ctx context.Context) (bool, error) {
	if _, err := h.conn.Write(greeting{flags: flagFixedNewstyle | flagNoZeroes}.append(nil)); err != nil {
		return false, err
	}
	var cf [4]byte
	if _, err := io.ReadFull(h.conn, cf[:]); err != nil {
		return false, err
	}
	flags := binary.BigEndian.Uint32(cf[:])
	if flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return false, fmt.Errorf("%w: unknown client flags %#x", errProtocol, flags)
	}
	h.noZeroes = flags&flagNoZeroes != 0

	for {
		var hdr [optionHeaderSize]byte
		if _, err := io.ReadFull(h.conn, hdr[:]); err != nil {
			return false, err
		}
		opt, err := parseOptionHeader(&hdr)
		if err != nil {
			return false, err
		}
		if opt.length > maxOption {
			if err := h.skip(opt); err != nil {
				return false, err
			}
			continue
		}
		data := make([]byte, opt.length)
		if _, err := io.ReadFull(h.conn, data); err != nil {
			return false, err
		}
		if done, chosen, err := h.answer(ctx, opt.option, data); done || err != nil {
			return chosen, err
		}
	}
}

// skip throws away the data of an option that is too big to look at.
func (h *handshake) skip(opt optionHeader) error {
	if opt.length > maxSkip || opt.option == optExportName {
		return fmt.Errorf("%w: option %d with %d bytes", errProtocol, opt.option, opt.length)
	}
	if _, err := io.CopyN(io.Discard, h.conn, int64(opt.length)); err != nil {
		return err
	}
	return h.reply(opt.option, repErrTooBig, []byte("option data is too long"))
}

// answer handles one option. done ends the negotiation; chosen says that an
// export was agreed on.
func (h *handshake) answer(ctx context.Context, option uint32, data []byte) (done, chosen bool, err error) {
	if h.server.TLS != nil && !h.secure {
		switch option {
		case optStartTLS, optAbort:
		case optExportName:
			return true, false, fmt.Errorf("%w: EXPORT_NAME before TLS", errProtocol)
		default:
			return false, false, h.reply(option, repErrTLSReqd, []byte("this server requires TLS"))
		}
	}
	switch option {
	case optExportName:
		return true, true, h.exportName(ctx, string(data))
	case optAbort:
		// The client may be gone already; the protocol asks us not to mind.
		_ = h.reply(option, repAck, nil)
		return true, false, nil
	case optList:
		return false, false, h.list(data)
	case optStartTLS:
		return false, false, h.startTLS(ctx, data)
	case optInfo, optGo:
		return h.info(ctx, option, data)
	case optStructuredReply:
		if len(data) != 0 {
			return false, false, h.invalid(option, "the option takes no data")
		}
		h.structured = true
		return false, false, h.reply(option, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		return false, false, h.metaContext(ctx, option, data)
	}
	return false, false, h.reply(option, repErrUnsup, nil)
}

// exportName is the old way to choose an export: failure can only be told by
// closing the connection.
func (h *handshake) exportName(ctx context.Context, name string) error {
	if err := checkString(name, "export name"); err != nil {
		return err
	}
	e, err := h.server.find(ctx, name)
	if err != nil {
		return fmt.Errorf("nbd: export %q: %w", name, err)
	}
	h.choose(name, e)
	b := exportInfo{size: uint64(h.target.size), flags: h.flags}.append(nil)
	if !h.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	_, err = h.conn.Write(b)
	return err
}

func (h *handshake) choose(name string, e Export) {
	h.export, h.target = e, newTarget(e)
	h.flags = h.target.flags(h.structured)
	h.status = h.structured && h.hasContext && h.contextFor == name
}

func (h *handshake) list(data []byte) error {
	if len(data) != 0 {
		return h.invalid(optList, "the option takes no data")
	}
	for _, e := range h.server.Exports {
		b := append(appendString(nil, e.Name), e.Description...)
		if err := h.reply(optList, repServer, b); err != nil {
			return err
		}
	}
	return h.reply(optList, repAck, nil)
}

// startTLS upgrades the connection and forgets what was negotiated in the clear.
func (h *handshake) startTLS(ctx context.Context, data []byte) error {
	switch {
	case h.server.TLS == nil:
		return h.reply(optStartTLS, repErrUnsup, []byte("this server has no TLS"))
	case len(data) != 0:
		return h.invalid(optStartTLS, "the option takes no data")
	case h.secure:
		return h.invalid(optStartTLS, "TLS is on already")
	}
	if err := h.reply(optStartTLS, repAck, nil); err != nil {
		return err
	}
	conn := tls.Server(h.conn, h.server.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("nbd: TLS: %w", err)
	}
	h.conn, h.secure = conn, true
	h.structured, h.hasContext, h.contextFor = false, false, ""
	return nil
}

// info answers INFO and GO.
func (h *handshake) info(ctx context.Context, option uint32, data []byte) (done, chosen bool, err error) {
	q, err := parseInfoQuery(data)
	if err != nil {
		return false, false, h.invalid(option, err.Error())
	}
	e, err := h.server.find(ctx, q.name)
	if err != nil {
		return false, false, h.unknown(option, q.name, err)
	}
	kept := false
	defer func() {
		if !kept {
			e.release()
		}
	}()
	t := newTarget(e)
	items := [][]byte{exportInfo{size: uint64(t.size), flags: t.flags(h.structured)}.
		append(binary.BigEndian.AppendUint16(nil, infoExport))}
	if slices.Contains(q.items, infoName) {
		items = append(items, append(binary.BigEndian.AppendUint16(nil, infoName), e.Name...))
	}
	if slices.Contains(q.items, infoDescription) && e.Description != "" {
		items = append(items, append(binary.BigEndian.AppendUint16(nil, infoDescription), e.Description...))
	}
	if slices.Contains(q.items, infoBlockSize) {
		items = append(items, blockSizeInfo{minimum: 1, preferred: preferredBlock, maxPayload: MaxPayload}.
			append(binary.BigEndian.AppendUint16(nil, infoBlockSize)))
	}
	for _, it := range items {
		if err := h.reply(option, repInfo, it); err != nil {
			return false, false, err
		}
	}
	if option == optGo {
		kept = true
		h.choose(q.name, e)
	}
	return option == optGo, option == optGo, h.reply(option, repAck, nil)
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *handshake) metaContext(ctx context.Context, option uint32, data []byte) error {
	set := option == optSetMetaContext
	if set {
		h.hasContext, h.contextFor = false, "" // whatever happens, the last choice is gone
	}
	if !h.structured {
		return h.invalid(option, "structured replies must be negotiated first")
	}
	q, err := parseMetaQuery(data)
	if err != nil {
		return h.invalid(option, err.Error())
	}
	e, err := h.server.find(ctx, q.export)
	if err != nil {
		return h.unknown(option, q.export, err)
	}
	e.release()

	match := !set && len(q.queries) == 0
	for _, s := range q.queries {
		if !strings.Contains(s, ":") {
			return h.invalid(option, "a query has no namespace")
		}
		// In the base namespace, "base:" alone lists all; it can't be set.
		match = match || s == contextAllocation || !set && s == "base:"
	}
	if match {
		id := uint32(0)
		if set {
			id = contextAllocationID
			h.hasContext, h.contextFor = true, q.export
		}
		b := append(binary.BigEndian.AppendUint32(nil, id), contextAllocation...)
		if err := h.reply(option, repMetaContext, b); err != nil {
			return err
		}
	}
	return h.reply(option, repAck, nil)
}

func (h *handshake) reply(option, kind uint32, data []byte) error {
	b := optionReply{option: option, kind: kind, length: uint32(len(data))}.append(nil)
	_, err := h.conn.Write(append(b, data...))
	return err
}

func (h *handshake) invalid(option uint32, why string) error {
	return h.reply(option, repErrInvalid, []byte(why))
}

// unknown refuses an export. Why it failed is told to the log, not to a client
// that may have guessed the name.
func (h *handshake) unknown(option uint32, name string, err error) error {
	if !errors.Is(err, ErrNoExport) {
		h.server.log().Warn("nbd: export can't be opened", "client", h.conn.RemoteAddr(), "export", name, "err", err)
	}
	return h.reply(option, repErrUnknown, []byte("no such export, or it can't be opened"))
}
