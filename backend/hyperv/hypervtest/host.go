package hypervtest

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// T is what a host needs of a *testing.T or *testing.B.
type T interface {
	Helper()
	TempDir() string
	Cleanup(func())
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Options of a host. The zero value is a Windows Server 2019 whose jobs take two
// polls.
type Options struct {
	Name string // the host's; empty: HV1
	// Locale is the language of captions and of what the host says in errors;
	// empty: English. "de" is the other one there is.
	Locale string
	// NoHyperV is a host without the role: its WMI has no such namespace.
	NoHyperV bool
	// JobPolls is how many calls a job takes, polls of it or any others; 0: 2.
	JobPolls int
	// JobLife is how long a job can be looked at after its end; 0: 5 minutes.
	JobLife time.Duration
	// ShutdownCalls is how many calls a guest's shutdown takes; 0: 2.
	ShutdownCalls int
	// Granularity of change tracking in bytes; 0: 64 KiB.
	Granularity int64
	// BlockSize of dynamic disks in bytes; 0: 1 MiB, so that little data takes
	// little time. Hyper-V's own is 32 MiB.
	BlockSize uint32
	// Capacity of each volume in bytes; 0: 16 TiB. It is told, not enforced:
	// see [Host.FillUp].
	Capacity int64
}

// Host is a Hyper-V host in this process. All methods are safe for concurrent
// use.
type Host struct {
	opts  Options
	id    string
	s     *storage
	nodes *[]*Host // of the cluster, with itself

	vms      []*VM
	switches []*vSwitch
	jobs     []*job
	working  []*job // those of them that haven't ended
	boots    int    // connections of an earlier boot are dead
	handles  map[*openDisk]bool

	hooks hooks
}

type vSwitch struct{ id, name string }

// New makes a host. It goes away with t.Cleanup.
func New(t T, opts Options) *Host {
	t.Helper()
	return newNodes(t, opts, 1)[0]
}

// NewCluster makes n hosts that share C:\ClusterStorage, and have a drive C of
// their own else. They are named HV1, HV2, ..., or after opts.Name.
func NewCluster(t T, n int, opts Options) []*Host {
	t.Helper()
	return newNodes(t, opts, n)
}

func newNodes(t T, opts Options, n int) []*Host {
	t.Helper()
	if opts.JobPolls == 0 {
		opts.JobPolls = 2
	}
	if opts.JobLife == 0 {
		opts.JobLife = 5 * time.Minute
	}
	if opts.ShutdownCalls == 0 {
		opts.ShutdownCalls = 2
	}
	if opts.Granularity == 0 {
		opts.Granularity = 64 << 10
	}
	if opts.BlockSize == 0 {
		opts.BlockSize = 1 << 20
	}
	if opts.Capacity == 0 {
		opts.Capacity = 16 << 40
	}
	s := &storage{dir: t.TempDir(), granularity: opts.Granularity, block: opts.BlockSize, capacity: opts.Capacity, files: map[string]*file{}}
	nodes := make([]*Host, n)
	for i := range nodes {
		o := opts
		switch {
		case o.Name == "":
			o.Name = fmt.Sprintf("HV%d", i+1)
		case n > 1:
			o.Name = fmt.Sprintf("%s%d", o.Name, i+1)
		}
		h := &Host{opts: o, id: newGUID(), s: s, nodes: &nodes, boots: 1, handles: map[*openDisk]bool{}, hooks: hooks{denied: map[string]bool{}, counts: map[string]int{}}}
		nodes[i] = h
		for _, dir := range []string{defaultDisks, defaultConfigs, `C:\ClusterStorage\Volume1`} {
			if err := s.mkdir(o.Name, dir); err != nil {
				t.Fatalf("hypervtest: %v", err)
			}
		}
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Errorf("hypervtest: %v", err)
		}
	})
	return nodes
}

// Where a host puts files if it isn't told.
const (
	defaultDisks   = `C:\Users\Public\Documents\Hyper-V\Virtual Hard Disks`
	defaultConfigs = `C:\ProgramData\Microsoft\Windows\Hyper-V`
)

// Name returns the host's name.
func (h *Host) Name() string { return h.opts.Name }

// Switch makes a virtual switch of that name and returns its GUID. Names may
// repeat.
func (h *Host) Switch(name string) string {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	return h.addSwitch(name).id
}

func (h *Host) addSwitch(name string) *vSwitch {
	sw := &vSwitch{id: newGUID(), name: name}
	h.switches = append(h.switches, sw)
	return sw
}

// VM returns the machine with this GUID, in upper or lower case, or nil.
func (h *Host) VM(id string) *VM {
	h.s.mu.RLock()
	defer h.s.mu.RUnlock()
	return h.vm(id)
}

// VMs returns the host's machines in the order in which they came.
func (h *Host) VMs() []*VM {
	h.s.mu.RLock()
	defer h.s.mu.RUnlock()
	return append([]*VM(nil), h.vms...)
}

func (h *Host) vm(id string) *VM {
	for _, vm := range h.vms {
		if strings.EqualFold(vm.id, id) {
			return vm
		}
	}
	return nil
}

// Local returns where the file of this path lies on this machine, for tools that
// read disk files: it has all that was written so far. While a machine runs on
// it, or a disk is open, it changes.
func (h *Host) Local(path string) (string, error) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	key, err := h.s.key(h.opts.Name, path)
	if err != nil {
		return "", err
	}
	if f := h.s.files[key]; f != nil {
		return key, f.image.Flush()
	}
	return key, nil
}

// Conn returns a new connection to the host's WMI.
func (h *Host) Conn() host.Conn { return &conn{h: h, boot: h.boot()} }

// Disks returns the host's disks and files.
func (h *Host) Disks() host.Disks { return &disks{h: h} }

func (h *Host) boot() int {
	h.s.mu.RLock()
	defer h.s.mu.RUnlock()
	return h.boots
}

// path of an instance on this host.
func (h *Host) path(class string, p host.Props) host.Ref {
	return pathOf(h.opts.Name, classOf(class), p)
}

// say picks the host's language.
func (h *Host) say(english, german string) string {
	if h.opts.Locale == "de" {
		return german
	}
	return english
}

// hooks are what tests hang into calls.
type hooks struct {
	mu     sync.Mutex
	fails  []func(Call) error
	ends   []JobEnd
	alters []func(*host.Object)
	denied map[string]bool
	counts map[string]int
	trace  []Call
	hung   chan struct{} // closed when the host answers again; nil: it does
	n      int
}
