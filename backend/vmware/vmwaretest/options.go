package vmwaretest

import (
	"context"
	"time"
)

// Options says what the simulated vCenter is like. The zero value is one
// datacenter "DC0" with a cluster "C0" of two hosts, two VMFS datastores
// "vmfs-0" and "vmfs-1", and the networks "VM Network" and "isolated".
type Options struct {
	// User and Password are the administrator's login; "" are
	// "administrator@vsphere.local" and "secret".
	User, Password string
	// Reader, if set, is the name of a second user with the same password and
	// vSphere's read-only role: what changes anything, exports or browses a
	// datastore is answered NoPermission. See also Simulator.Deny.
	Reader string
	// SessionIdle is how long a session lives without a call; 0 is 30 minutes.
	// A call that waits for updates keeps it alive. See also ExpireSessions.
	SessionIdle time.Duration
	// Datacenters replaces the default inventory. Names of datastores must be
	// unique in the whole inventory.
	Datacenters []Datacenter
	// MaxAreas bounds what one QueryChangedDiskAreas returns; 0 is 2,000, the
	// limit of vSphere. Small numbers make paging cheap to test.
	MaxAreas int
	// MaxNFC bounds the connections under /nfc/ that are open at once; one
	// more is answered 503. 0 is 52, the limit through a vCenter.
	MaxNFC int
	// LeaseTimeout is how long a lease lives without HttpNfcLeaseProgress; 0
	// is five minutes. vSphere counts whole seconds. See also ExpireLeases.
	LeaseTimeout time.Duration
	// Latency delays each call of the API before it has any effect. See also
	// Simulator.SetLatency.
	Latency time.Duration
	// TaskInProgress makes a change of a machine fail with TaskInProgress while
	// another is under way, as vCenter does in many cases. Off, changes of one
	// machine are done one after the other.
	TaskInProgress bool
	// OnGuestProgram runs the programs that clients start in guests that have no
	// function of their own; see Guest.OnProgram. Nil: there are no programs.
	OnGuestProgram func(context.Context, GuestProgram) (exit int)
	// Bugs turns on defects that real versions have or had.
	Bugs Bugs
}

// Bugs are defects of real versions, all off by default.
type Bugs struct {
	// TrackingUnderSnapshots makes tracking that is enabled while the machine
	// has snapshots active at once, and silently leaves what was written
	// before out of every answer, "*" included. Off, it becomes active with
	// the first snapshot after the last one is gone.
	TrackingUnderSnapshots bool
	// ExtendPast128GiB makes tracking lose, without an error, what is written
	// beyond the old end of a disk that was extended across a multiple of
	// 128 GiB while tracked, until tracking is disabled and enabled again.
	ExtendPast128GiB bool
	// RelocateResetsTracking begins a new tracking epoch when a disk moves to
	// another datastore.
	RelocateResetsTracking bool
}

// Datacenter is a part of the inventory.
type Datacenter struct {
	Name string
	// Folders are folders of machines, as paths below the datacenter's "vm"
	// folder: "prod/web" makes both.
	Folders []string
	// Clusters are compute clusters with their hosts.
	Clusters []Cluster
	// Hosts are standalone hosts.
	Hosts []string
	// Datastores are mounted by every host of the datacenter; at least one.
	Datastores []Datastore
	// Networks are standard port groups beside "VM Network", which is there.
	Networks []string
}

// Cluster is a compute cluster.
type Cluster struct {
	Name  string
	Hosts []string
}

// Datastore is a place for files.
type Datastore struct {
	Name string
	// Type is what summary.type says: "" is "VMFS". On anything else the
	// changeId "*" is answered with the whole disk.
	Type string
	// Capacity and Free are in bytes; both 0 is what vcsim makes up. Disks that
	// are made take their whole size from Free and give it back, whatever is
	// written. See also Simulator.SetDatastoreSpace.
	Capacity, Free int64
}

func (o *Options) setDefaults() {
	if o.User == "" {
		o.User = "administrator@vsphere.local"
	}
	if o.Password == "" {
		o.Password = "secret"
	}
	if o.SessionIdle == 0 {
		o.SessionIdle = 30 * time.Minute
	}
	if o.MaxAreas == 0 {
		o.MaxAreas = 2000
	}
	if o.MaxNFC == 0 {
		o.MaxNFC = 52
	}
	if o.LeaseTimeout == 0 {
		o.LeaseTimeout = 5 * time.Minute
	}
	if len(o.Datacenters) == 0 {
		o.Datacenters = []Datacenter{{
			Name:       "DC0",
			Clusters:   []Cluster{{Name: "C0", Hosts: []string{"esx-0", "esx-1"}}},
			Datastores: []Datastore{{Name: "vmfs-0"}, {Name: "vmfs-1"}},
			Networks:   []string{"isolated"},
		}}
	}
}
