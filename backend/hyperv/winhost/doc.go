// Package winhost speaks to a Hyper-V host with what only Windows has: WMI over
// COM behind [host.Conn], virtdisk.dll and the file system behind [host.Disks].
// It is as thin as it can be: whoever reads the backend needs none of it, and
// whatever could be decided elsewhere is. On other systems the package holds
// no more than the arithmetic of sectors and ranges.
//
// [Dial] connects to the WMI of this host or of another one. [Disks] works on
// the host itself only, because virtdisk does.
//
// It stands on github.com/microsoft/wmi, of which it uses the connection,
// objects by path, new instances and their text, and imports
// pkg/wmiinstance alone. Where that library would lose an error, panic, or
// write to the process's log, its place is taken by go-ole and by calls of
// IDispatch of its own; each such place names the reason. Of go-ole, too, what
// leaks or overwrites memory is not called.
//
// The first Dial sets the security of COM for the whole process, if nobody has
// (CoInitializeSecurity: packet privacy, impersonation), as WMI asks of its
// clients.
//
// What was run: all of it compiles and is vetted for Windows; the WMI half, the
// file half and the errors of both run as a Windows program under Wine (make
// wine). Wine has no Hyper-V, and its virtdisk.dll is hollow: what virtdisk
// answers was not seen here.
//
// What lives here: calls of Windows, and the translation of values and errors.
// What may not: a class of Hyper-V by name, a job that is waited for, a retry of
// anything but a connection that was lost under a call that reads.
package winhost
