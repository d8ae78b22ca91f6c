// Package fsfreeze holds the file systems of a running Linux machine still:
// hooks for package physical that freeze every mounted file system on a
// machine's disks and thaw it whatever happens.
//
// Here live the search for what lies on a disk, the freezing in order, the
// guard that outlives this process, and the scripts that prepare applications.
// What is copied meanwhile, and for how long a machine may be held, is package
// physical's.
//
// # What is held
//
// Every file system that this process sees mounted from one of the disks, a
// partition, or a device built on them (LVM, md, dm-crypt, loop devices over
// the disk or over a file on it, each member of a btrfs) is flushed, then
// frozen with FIFREEZE: those on loop devices first, then the deepest mounts.
// They thaw in the reverse order. Reading goes on while they are frozen, so
// programs can still be started.
//
// FAT and others know no freezing. They are flushed, and the kernel's counters
// tell at the thaw whether anything was written to them meanwhile: then the
// thaw is an error and the capture fails. A device that is used by none of the
// file systems mounted here, as by a database without a file system, is watched
// the same way. One that somebody holds exclusively, such as a file system
// mounted in another mount namespace only, can't be flushed either: then the
// point is crash-consistent, and says why. Swap isn't held; its content is of
// no use to anybody after a restart.
//
// # Applications
//
// [Scripts] runs a folder of programs before the freeze and after the thaw.
// Only if there are some and all succeed, both times, is the point
// application-consistent.
// Examples for databases are in examples/agent/hooks.
//
// # What thaws
//
// The thaw hook, which physical calls at the deadline too; if this process
// dies, a guard: a shell that was started before anything was frozen and waits
// at a pipe. The kernel closes the pipe when the last thread is gone, so a
// freeze that was under way is over by then. The guard thaws, and then gives
// the scripts their thaw. If this process lives but hangs, it thaws after
// Options.Limit. It ignores SIGTERM; only who kills both at once with SIGKILL,
// as the kernel does with a whole control group that is out of memory, leaves
// the machine frozen. `fsfreeze -u` of each mount, or `echo j
// >/proc/sysrq-trigger`, ends that.
//
// # What must not be frozen
//
// A process that writes to a file system that it froze waits for ever. Package
// physical doesn't write its state while the machine is frozen, but a log, a
// vault or a run's journal may be: name them in Options.Own, and a freeze that
// would hold them is refused ([OwnError]). Where standard output and standard
// error are files, they are among them unasked. A log that goes to the system's
// journal is taken until that one's buffers are full, some hundred lines.
//
// # Needs
//
// Linux, CAP_SYS_ADMIN in the machine's own mount namespace (not a
// container's), sh, sleep and fsfreeze (util-linux). Elsewhere the hooks are
// dr.ErrUnsupported.
//
// # Not verified on
//
// LVM, md and dm-crypt were not at hand: they are found in trees of sysfs as
// the kernel documents it. Frozen and read were ext4, xfs, btrfs and FAT on
// loop devices.
package fsfreeze
