// Package minilinux builds a disk with a small Linux that boots: for tests and
// demonstrations that have to show that a recovered machine really starts.
//
// It is made of Debian's packages: their kernel, their boot loader, busybox,
// and a root file system of ext4. The script .ci/minilinux unpacks them below
// the repository's .cache, without root; Build needs neither root nor a mount,
// and takes a few seconds. With the same options and packages it writes the
// same bytes.
//
// The machine's only program is the package guestd: it is the initramfs's
// /init, which loads the drivers that the hardware asks for and finds the root
// file system by its UUID, and then the root's /sbin/init. It counts: several
// times a second it makes the next number durable, says it on the serial
// console, and serves it over TCP. The package guest has the lines and the
// format of what is kept, for both sides.
//
// It starts from virtio, NVMe, IDE (the machine type pc), virtio-scsi and
// VMware's pvscsi; and has the networks virtio and vmxnet3. Debian's cloud
// kernel has no AHCI and no e1000, which are qemu's defaults: name others.
// Debian's UEFI for qemu can't start from pvscsi.
//
// What may not live here: running a virtual machine, which is its user's.
package minilinux
