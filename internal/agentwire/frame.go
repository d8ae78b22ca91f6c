package agentwire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind says what a frame is.
type Kind uint8

// Kinds of frames. C: sent by clients only, S: by servers only.
const (
	Hello   Kind = 1 + iota // C: the first frame of a connection
	Welcome                 // S: its answer, or a Failure
	Request                 // C: begins a call
	Result                  // S: ends a call well
	Failure                 // S: ends a call badly
	Data                    // S: part of a stream
	Window                  // C: so many more bytes of a stream may come
	Cancel                  // C: the call is no longer wanted; it still ends with a Result or Failure
	Ping                    // C: is anybody there?
	Pong                    // S: yes
	GoAway                  // S: begin no call here any more
	kinds
)

const (
	// HeaderSize is the length of every frame's head in bytes.
	HeaderSize = 16
	// MaxBulk is the most that one Read or Write carries, in bytes.
	MaxBulk = 1 << 20
	// MaxFrame bounds a frame's payload: machines with their configuration,
	// points, screenshots.
	MaxFrame = 4 << 20
	// MaxArgument bounds a request's JSON.
	MaxArgument = 1 << 20
	// MaxFault bounds the payload of a Failure.
	MaxFault = 256 << 10
	// MaxGreeting bounds those of Hello and Welcome.
	MaxGreeting = 64 << 10
	// StreamWindow is how many bytes of a stream may be on their way before
	// the reader has granted more.
	StreamWindow = 256 << 10
	// RequestHead is what the payload of every Request begins with: timeout
	// and handle.
	RequestHead = 16
)

// ErrProtocol says that the peer doesn't keep to the protocol. The connection is of no
// use any more.
var ErrProtocol = errors.New("agent protocol broken")

// Header is the head of a frame.
type Header struct {
	Len  uint32 // of the payload, in bytes
	Kind Kind
	Op   Op     // of a Request; 0 otherwise
	ID   uint64 // of the call; 0 where there is none
}

// Append puts the header's 16 bytes behind b.
func (h Header) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, h.Len)
	b = append(b, byte(h.Kind), byte(h.Op), 0, 0)
	return binary.BigEndian.AppendUint64(b, h.ID)
}

// ParseHeader reads a header from the first HeaderSize bytes of b, and refuses
// with ErrProtocol one that no peer may send.
func ParseHeader(b []byte) (Header, error) {
	h := Header{
		Len:  binary.BigEndian.Uint32(b),
		Kind: Kind(b[4]),
		Op:   Op(b[5]),
		ID:   binary.BigEndian.Uint64(b[8:]),
	}
	bad := func(why string) (Header, error) {
		return Header{}, fmt.Errorf("%w: a frame of kind %d, %d bytes, call %d: %s", ErrProtocol, h.Kind, h.Len, h.ID, why)
	}
	switch {
	case h.Kind == 0 || h.Kind >= kinds:
		return bad("no such kind")
	case b[6] != 0 || b[7] != 0:
		return bad("reserved bytes are set")
	case (h.Op != 0) != (h.Kind == Request):
		return bad("requests have an operation, and nothing else has")
	case h.Len > h.Kind.limit():
		return bad("too long")
	case h.Len < h.Kind.least():
		return bad("too short")
	case (h.ID != 0) != h.Kind.ofCall():
		return bad("the number of the call")
	}
	return h, nil
}

func (k Kind) limit() uint32 {
	switch k {
	case Hello, Welcome:
		return MaxGreeting
	case Request, Result, Data:
		return MaxFrame
	case Failure:
		return MaxFault
	case Window:
		return 4
	}
	return 0
}

func (k Kind) least() uint32 {
	switch k {
	case Request:
		return RequestHead
	case Window:
		return 4
	case Data:
		return 1 // empty ones would cost no window
	}
	return 0
}

// ofCall tells whether frames of the kind carry a call's number. Failures of a
// greeting have the number 1, which no call has.
func (k Kind) ofCall() bool {
	switch k {
	case Request, Result, Failure, Data, Window, Cancel:
		return true
	}
	return false
}

// GreetingID is the number of the Failure that answers a Hello. Calls count
// from the next number on.
const GreetingID = 1
