// Package host is the seam between the backend for Hyper-V and a Hyper-V host:
// WMI as plain data ([Conn]) and the host's virtual disks ([Disks]). Whatever
// only Windows can do lies behind these two.
//
// There are two implementations: package winhost, thin adapters that run on the
// host itself, and package hypervtest, a host in this process.
//
// What lives here: the interfaces, the values that cross them, and the errors
// with their codes. What may not: COM, virtdisk, and any decision of the
// backend.
package host
