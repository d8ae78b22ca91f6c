package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxPayload is the largest READ or WRITE that this package serves in one
// request, and the bytes of data buffers that one connection can hold: 32 MiB,
// the length that the protocol asks every server to take ("Size constraints").
const MaxPayload = 32 << 20

// preferredBlock is advertised as the size of efficient requests: the chunk in
// which recovery points are stored.
const preferredBlock = 64 << 10

// maxString is the protocol's limit for names, descriptions and messages.
const maxString = 4096

// The magic numbers that begin each kind of message.
const (
	magicServer      uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption      uint64 = 0x49484156454f5054 // "IHAVEOPT"
	magicOptionReply uint64 = 0x0003e889045565a9
	magicRequest     uint32 = 0x25609513
	magicSimpleReply uint32 = 0x67446698
	magicChunk       uint32 = 0x668e33ef
)

// Handshake flags; the client's have the same bits as the server's.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Transmission flags: what an export can do.
const (
	sendHasFlags   uint16 = 1 << 0
	sendReadOnly   uint16 = 1 << 1
	sendFlush      uint16 = 1 << 2
	sendFUA        uint16 = 1 << 3
	sendTrim       uint16 = 1 << 5
	sendWriteZeros uint16 = 1 << 6
	sendDF         uint16 = 1 << 7
	canMultiConn   uint16 = 1 << 8
	sendCache      uint16 = 1 << 10
	sendFastZero   uint16 = 1 << 11
)

// Options of the handshake.
const (
	optExportName      uint32 = 1
	optAbort           uint32 = 2
	optList            uint32 = 3
	optStartTLS        uint32 = 5
	optInfo            uint32 = 6
	optGo              uint32 = 7
	optStructuredReply uint32 = 8
	optListMetaContext uint32 = 9
	optSetMetaContext  uint32 = 10
)

// Replies to options. Bit 31 marks an error.
const (
	repAck         uint32 = 1
	repServer      uint32 = 2
	repInfo        uint32 = 3
	repMetaContext uint32 = 4

	repErrBit     uint32 = 1 << 31
	repErrUnsup          = repErrBit | 1
	repErrPolicy         = repErrBit | 2
	repErrInvalid        = repErrBit | 3
	repErrTLSReqd        = repErrBit | 5
	repErrUnknown        = repErrBit | 6
	repErrTooBig         = repErrBit | 9
)

// Items of information about an export.
const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// Commands of the transmission.
const (
	cmdRead        uint16 = 0
	cmdWrite       uint16 = 1
	cmdDisc        uint16 = 2
	cmdFlush       uint16 = 3
	cmdTrim        uint16 = 4
	cmdCache       uint16 = 5
	cmdWriteZeros  uint16 = 6
	cmdBlockStatus uint16 = 7
)

// Flags of commands.
const (
	cmdFlagFUA      uint16 = 1 << 0
	cmdFlagNoHole   uint16 = 1 << 1
	cmdFlagDF       uint16 = 1 << 2
	cmdFlagReqOne   uint16 = 1 << 3
	cmdFlagFastZero uint16 = 1 << 4
)

// Chunks of structured replies. Bit 15 marks an error.
const (
	chunkNone        uint16 = 0
	chunkOffsetData  uint16 = 1
	chunkOffsetHole  uint16 = 2
	chunkBlockStatus uint16 = 5
	chunkErrorBit    uint16 = 1 << 15
	chunkError              = chunkErrorBit | 1
	chunkErrorOffset        = chunkErrorBit | 2

	chunkFlagDone uint16 = 1 << 0
)

// The metadata context that this package knows, and its status bits.
const (
	contextAllocation          = "base:allocation"
	contextAllocationID uint32 = 1

	stateHole uint32 = 1 << 0
	stateZero uint32 = 1 << 1
)

// Sizes of fixed messages, in bytes.
const (
	greetingSize     = 8 + 8 + 2
	optionHeaderSize = 8 + 4 + 4
	optionReplySize  = 8 + 4 + 4 + 4
	requestSize      = 4 + 2 + 2 + 8 + 8 + 4
	simpleReplySize  = 4 + 4 + 8
	chunkHeaderSize  = 4 + 2 + 2 + 8 + 4
)

// errProtocol is wrapped by every error that says that the other side broke
// the protocol so badly that the connection must end.
var errProtocol = errors.New("nbd: protocol violated")

// greeting is the server's first message.
type greeting struct{ flags uint16 }

func (g greeting) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, magicServer)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	return binary.BigEndian.AppendUint16(b, g.flags)
}

func parseGreeting(b *[greetingSize]byte) (greeting, error) {
	if m := binary.BigEndian.Uint64(b[:]); m != magicServer {
		return greeting{}, fmt.Errorf("%w: greeting starts with %#x, not NBDMAGIC", errProtocol, m)
	}
	if m := binary.BigEndian.Uint64(b[8:]); m != magicOption {
		return greeting{}, fmt.Errorf("%w: greeting's second magic is %#x (an oldstyle server?)", errProtocol, m)
	}
	return greeting{flags: binary.BigEndian.Uint16(b[16:])}, nil
}

// optionHeader announces an option and the length of its data.
type optionHeader struct{ option, length uint32 }

func (h optionHeader) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint32(b, h.option)
	return binary.BigEndian.AppendUint32(b, h.length)
}

func parseOptionHeader(b *[optionHeaderSize]byte) (optionHeader, error) {
	if m := binary.BigEndian.Uint64(b[:]); m != magicOption {
		return optionHeader{}, fmt.Errorf("%w: option starts with %#x, not IHAVEOPT", errProtocol, m)
	}
	return optionHeader{
		option: binary.BigEndian.Uint32(b[8:]),
		length: binary.BigEndian.Uint32(b[12:]),
	}, nil
}

// optionReply announces a reply to an option and the length of its data.
type optionReply struct{ option, kind, length uint32 }

func (r optionReply) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, magicOptionReply)
	b = binary.BigEndian.AppendUint32(b, r.option)
	b = binary.BigEndian.AppendUint32(b, r.kind)
	return binary.BigEndian.AppendUint32(b, r.length)
}

func parseOptionReply(b *[optionReplySize]byte) (optionReply, error) {
	if m := binary.BigEndian.Uint64(b[:]); m != magicOptionReply {
		return optionReply{}, fmt.Errorf("%w: reply to an option starts with %#x", errProtocol, m)
	}
	return optionReply{
		option: binary.BigEndian.Uint32(b[8:]),
		kind:   binary.BigEndian.Uint32(b[12:]),
		length: binary.BigEndian.Uint32(b[16:]),
	}, nil
}

// request is the header of a command. A WRITE is followed by length bytes.
type request struct {
	flags, cmd uint16
	cookie     uint64
	offset     uint64
	length     uint32
}

func (r request) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, magicRequest)
	b = binary.BigEndian.AppendUint16(b, r.flags)
	b = binary.BigEndian.AppendUint16(b, r.cmd)
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	b = binary.BigEndian.AppendUint64(b, r.offset)
	return binary.BigEndian.AppendUint32(b, r.length)
}

func parseRequest(b *[requestSize]byte) (request, error) {
	if m := binary.BigEndian.Uint32(b[:]); m != magicRequest {
		return request{}, fmt.Errorf("%w: request starts with %#x", errProtocol, m)
	}
	return request{
		flags:  binary.BigEndian.Uint16(b[4:]),
		cmd:    binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]),
		offset: binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// simpleReply answers a command; data follows a successful READ.
type simpleReply struct {
	err    Errno
	cookie uint64
}

func (r simpleReply) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, magicSimpleReply)
	b = binary.BigEndian.AppendUint32(b, uint32(r.err))
	return binary.BigEndian.AppendUint64(b, r.cookie)
}

// parseSimpleReply reads what follows the magic number, by which the reader
// told a simple reply from a chunk.
func parseSimpleReply(b *[simpleReplySize - 4]byte) simpleReply {
	return simpleReply{
		err:    Errno(binary.BigEndian.Uint32(b[:])),
		cookie: binary.BigEndian.Uint64(b[4:]),
	}
}

// chunkHeader begins a chunk of a structured reply.
type chunkHeader struct {
	flags, kind uint16
	cookie      uint64
	length      uint32
}

func (c chunkHeader) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, magicChunk)
	b = binary.BigEndian.AppendUint16(b, c.flags)
	b = binary.BigEndian.AppendUint16(b, c.kind)
	b = binary.BigEndian.AppendUint64(b, c.cookie)
	return binary.BigEndian.AppendUint32(b, c.length)
}

// parseChunkHeader reads what follows the magic number.
func parseChunkHeader(b *[chunkHeaderSize - 4]byte) chunkHeader {
	return chunkHeader{
		flags:  binary.BigEndian.Uint16(b[:]),
		kind:   binary.BigEndian.Uint16(b[2:]),
		cookie: binary.BigEndian.Uint64(b[4:]),
		length: binary.BigEndian.Uint32(b[12:]),
	}
}
