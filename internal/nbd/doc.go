// Package nbd speaks the Network Block Device protocol, on both sides. It serves
// a device, such as an opened recovery point, to any NBD client (qemu, libnbd,
// the Linux kernel), so that a point can be mounted or booted at once, without
// restoring it first. And it reads and writes the devices of other servers, such
// as nbdkit's with VMware's VDDK behind it, or qemu's with a dirty bitmap.
//
// What lives here:
//
//   - wire.go, option.go, errno.go: the protocol's constants, the codecs of its
//     messages and its error numbers, shared by the server and the client;
//   - export.go: [Device], the abilities a device may add, and [Export];
//   - server.go, handshake.go, session.go, read.go, write.go, status.go: [Server];
//   - client.go, dial.go, uri.go, list.go, negotiate.go, tls.go: [Client], and how
//     it comes to a connection;
//   - request.go, unaligned.go, blockstatus.go: what callers ask of it;
//   - link.go, receive.go: one connection, with many requests in flight;
//   - lane.go, ledger.go: connections that are lost and replaced, and what is
//     promised of writes then;
//   - overlay*.go: [Overlay], a writable device above a read-only one.
//
// What may not live here: anything that knows of machines, points or stores.
// A device is bytes with a size; the packages that own the bytes adapt them.
//
// The protocol is the one described in
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md: fixed
// newstyle negotiation, structured replies and the base:allocation context.
// Extended headers (64-bit lengths) are neither offered nor asked for.
//
// # Trust
//
// The bytes of a client are hostile until proven otherwise. A connection costs
// at most [MaxPayload] bytes of data buffers and Server.MaxInFlight goroutines,
// whatever lengths it claims; lengths are believed only as far as bytes arrive.
// NBD itself authenticates nobody: set Server.TLS with client certificates, or
// listen on a Unix socket whose directory is closed to others.
//
// A server's bytes are as hostile to a client. Replies are believed only where
// they fit a request in flight and its caller's buffer, nothing is allocated by
// a length that was only claimed, and a server that breaks the protocol loses
// the connection. Against silence there are contexts, and Options.Stall: a
// request has no time limit of its own, for a disk may be slow.
//
// # Not verified on
//
// Served to and tested with qemu 7.2, libnbd 1.14 and a client of our own, on
// Linux. The Linux kernel's client (nbd.ko) and NBD clients on Windows have not
// been tried.
//
// The client was tested with nbdkit 1.32, qemu-nbd 7.2 and our own server, over
// Unix sockets. nbdkit's VDDK plugin, whose blocks and limits nbdkit's
// blocksize-policy filter stands in for, and networks that lose packets have not
// been tried.
package nbd
