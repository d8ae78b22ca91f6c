// Package qemu runs one machine in QEMU's system emulator and watches it: for
// proofs that what was recovered boots, and for machines that this host runs.
//
// What lives here:
//
//   - config.go, args.go: [Config], and the command line that it means;
//   - machine.go, attach.go, process*.go: [Start], [Attach], and the process's life;
//   - qmp.go: a client of QEMU's control protocol;
//   - tail.go: the bounded memory of what a serial port said;
//   - verdict.go: how a failed boot is told at once, and not by a timeout;
//   - evidence.go, hello.go: signs of life that a caller may wait for;
//   - screen.go: the screen as a PNG;
//   - folder*.go: the folder of a machine, and what a crash left of others.
//
// What may not live here: anything that knows of points, stores or overlays. A
// disk is a file, a device, or an NBD export on a socket in the folder.
//
// # The guest is hostile
//
// A machine that is recovered may be one that was taken over. QEMU gets no
// configuration but ours (-nodefaults, -no-user-config), no display, and its
// system calls are filtered (-sandbox on, no new processes, no privileges). If
// this process is root QEMU runs as another user ([Config.User]), with the disks
// as open files: it can open no path that user couldn't. A card is
// connected to nothing, or to QEMU's user network with restrict=on, from which
// no packet leaves; forwarded ports listen on 127.0.0.1 only. What a guest says,
// and what QEMU says of it, is bounded and parsed as foreign bytes. Against a
// hole in QEMU itself the filter and the user are all there is: put a container
// around the process where that is not enough.
//
// Memory that was taken from a machine and disk that its overlay takes are the
// caller's to bound: a guest can use all that it was given.
//
// # Not verified on
//
// QEMU 7.2 of Debian 12 on Linux, by software emulation. Hardware acceleration is
// asked for only by [Config.KVM]. Windows and darwin are compiled, not run:
// there QEMU does not die with this process, and runs as its user.
package qemu
