// Package hypervtest is a Hyper-V host in this process, for tests: its WMI as a
// host.Conn, its disks as a host.Disks.
//
// What lives here: the simulator only. What may not: anything of the backend,
// which imports it in its tests, as users' tests do.
package hypervtest
