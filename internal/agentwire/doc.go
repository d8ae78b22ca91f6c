// Package agentwire is the agent protocol: how a backend's calls travel over TLS.
// Here live frames, the encodings of what is in them, the way from HTTP to them, and
// the rules for TLS. What
// the calls mean, who repeats them and who may make them is package
// backend/remote's.
//
// # Connections
//
// TLS 1.3 with ALPN "http/1.1" and certificates on both sides. A connection begins as
// HTTP/1.1 and becomes the client's with
//
//	GET /v1/session HTTP/1.1       HTTP/1.1 101 Switching Protocols
//	Host: disks1.example.com       Connection: Upgrade
//	Connection: Upgrade            Upgrade: lifeboat
//	Upgrade: lifeboat
//
// behind which both sides speak frames, the client first. The number in the path is
// that of the form of frames. Every other answer is an error, JSON as below, of media
// type application/vnd.lifeboat.error+json: 403 for a client that isn't let in, 404 for a
// version that isn't served, 426 for a request without Upgrade, 503 for a server that stops
// or has as many connections as it takes. Heads have 8 KiB at most.
//
// A client opens one connection and says Hello; the server's Welcome names the
// session. Further connections name that session in their Hello. The first is for
// small calls, the others for bulk, so that a read of a megabyte doesn't stand
// before a thaw; a server takes any call on any of them. When one ends, the session
// ends, with everything that was opened in it.
//
// # Frames
//
// Numbers are big-endian and unsigned unless told otherwise. Each frame has a head
// of 16 bytes:
//
//	0  4  length of the payload behind the head
//	4  1  kind
//	5  1  operation, of a Request; else 0
//	6  2  reserved, 0
//	8  8  number of the call; 0 in kinds that belong to none
//
//	kind         from    payload
//	 1 Hello     client  JSON, a Greeting; 64 KiB at most
//	 2 Welcome   server  JSON, Terms; 64 KiB at most
//	 3 Request   client  begins a call; 4 MiB at most, 1 MiB of JSON
//	 4 Result    server  ends it; 4 MiB at most
//	 5 Failure   server  ends it; an error, 256 KiB at most
//	 6 Data      server  part of a stream; 1 byte to 4 MiB
//	 7 Window    client  4: so many bytes of the stream's Data have been taken
//	 8 Cancel    client  the call isn't wanted any more; it ends all the same
//	 9 Ping      client
//	10 Pong      server
//	11 GoAway    server  the server stops: open nothing here any more
//
// Calls are numbered by the client from 2 on, never twice in a session; 1 is the
// Hello, which a Failure may answer. Any number of calls may be under way, up to the
// Terms' Calls and Bulk; their answers come in any order. Every Request gets exactly
// one Result or Failure, also behind a Cancel. A call that is one too many is a
// Failure (busy). Everything else that a peer may not send ends the connection.
//
// A client pings every KeepAlive of the Terms on each connection. A server answers,
// and says Pong of itself as often while a frame arrives: a Ping may stand behind
// megabytes of a slow line. Whoever has heard nothing, not a byte, for three times
// KeepAlive hangs up, and so does who can't send a byte for 24 times that long.
//
// # Requests
//
//	0  8  time that the caller has, in microseconds; 0: no end
//	8  8  handle of what is open: an image, a draft, a freeze; 0 for a backend's calls
//	16    the argument
//
// With the feature "fences", a JSON argument may have the field "fences": an object of
// epochs by resource, 64 at most with names of 512 bytes at most, for which the caller
// acts. A draft's writes carry none: they are bound to those that it was opened with.
//
// The operations have the numbers of the Op constants. The argument is JSON and so
// is the Result, but for the bulk operations Read, Sums, Write, Zero and Packed. Their
// argument is a span:
//
//	0   8  offset on the disk, in bytes, signed
//	8   8  length, signed: in bytes, 1 MiB at most (Zero: any); of Sums and Packed in
//	       blocks of 64 KiB, 65536 at most
//	16  2  length of the disk's ID, 4096 at most
//	18     the ID
//
// and behind it, of a Write, a body. Results of bulk calls:
//
//	Read    4: bytes read; 4: length of the error behind them, 0 for none; the error; a body
//	Sums    16 each
//	Packed  4 each, signed
//	Write, Zero  nothing
//
// # Bodies
//
// A table, then bytes. The table is a count (4) and as many pairs: how many zeros (4),
// then how many bytes that follow in the body (4). The pairs' sum is the length that
// the body stands for. Zeros are looked for in blocks of 4 KiB. If the Greeting and
// the Terms don't both have the feature "runs", there is one pair, without zeros.
//
// # Streams
//
// Machines, Changes, Extents and Durable are answered by Data frames and then a Result
// or Failure. 256 KiB of Data may be on their way; each Window grants as many more as
// were taken. A Data frame of Machines is a machine as JSON; of the others it is
// extents, each a signed varint (offset less the end of the extent before it in the
// same frame, or less 0) and an unsigned varint (twice the length, and one more if
// it reads as zeros), as encoding/binary writes them.
//
// # Errors
//
// JSON, a tree: {"text", "is", "name", "at", "permanent", "under"}. name: the error is
// that sentinel itself. is: it is those too, though none under it is. at: it is a
// *dr.Error with these fields, whose cause is under it. A sentinel that the reader
// doesn't know stays as its text.
//
// # Versions
//
// A Greeting has the lowest and the highest version that the client speaks, the Terms
// the highest that both do; there is 1. Fields and operations that a reader doesn't
// know are passed over and refused (unsupported), in that order: so abilities can be
// added without a new version.
package agentwire
