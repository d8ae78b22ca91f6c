// Package nbd speaks the Network Block Device protocol: it serves a device,
// such as an opened recovery point, to any NBD client (qemu, libnbd, the Linux
// kernel), so that a point can be mounted or booted at once, without restoring
// it first.
//
// What lives here:
//
//   - wire.go, option.go, errno.go: the protocol's constants, the codecs of its
//     messages and its error numbers, shared by the server and the client;
//   - export.go: [Device], the abilities a device may add, and [Export];
//   - server.go, handshake.go, session.go, read.go, write.go, status.go: [Server];
//   - overlay*.go: [Overlay], a writable device above a read-only one.
//
// What may not live here: anything that knows of machines, points or stores.
// A device is bytes with a size; the packages that own the bytes adapt them.
//
// The protocol is the one described in
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md: fixed
// newstyle negotiation, structured replies and the base:allocation context.
// Extended headers (64-bit lengths) are not offered; clients fall back.
//
// # Trust
//
// The bytes of a client are hostile until proven otherwise. A connection costs
// at most [MaxPayload] bytes of data buffers and Server.MaxInFlight goroutines,
// whatever lengths it claims; lengths are believed only as far as bytes arrive.
// NBD itself authenticates nobody: set Server.TLS with client certificates, or
// listen on a Unix socket whose directory is closed to others.
//
// # Not verified on
//
// Served to and tested with qemu 7.2, libnbd 1.14 and a client of our own, on
// Linux. The Linux kernel's client (nbd.ko) and NBD clients on Windows have not
// been tried.
package nbd
