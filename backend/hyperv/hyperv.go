package hyperv

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/fsys"
	"github.com/lifeboat-dr/lifeboat/internal/keyed"
)

// Node is one Hyper-V host: its WMI and its virtual disks.
type Node struct {
	// Name is the host's, for messages and for PlaceOptions.Node.
	Name string
	// Conn is connected to [host.Namespace].
	Conn host.Conn
	// Disks are the host's. On a cluster those of any node reach the shared
	// volumes.
	Disks host.Disks
}

// Options says which hosts there are, and how patient to be. The zero value of
// all but Nodes works.
type Options struct {
	// Nodes are a single host, or the nodes of one failover cluster that can be
	// reached: a machine is looked for on all of them, as it moves between them.
	Nodes []Node

	// Folder is where disks and configurations of new machines go: a folder for
	// each is made in it. "" is the host's own default for virtual disks.
	Folder string
	// Poll is how often a job of the host is looked at; 0: 250 ms at first, up
	// to two seconds.
	Poll time.Duration
	// JobLimit bounds the wait for one job of the host, and for a merge of
	// disks; 0: 30 minutes. Cancelling ctx ends any wait.
	JobLimit time.Duration

	// Log receives what a person may want to know later: checkpoints that could
	// not be application-consistent, tracking that is not believed, captures of
	// unclear owner. nil is silent.
	Log *slog.Logger
}

func (o *Options) complete() error {
	if len(o.Nodes) == 0 {
		return fmt.Errorf("%w: Options.Nodes is empty", dr.ErrInvalid)
	}
	o.Nodes = slices.Clone(o.Nodes)
	for i, n := range o.Nodes {
		switch {
		case n.Conn == nil || n.Disks == nil:
			return fmt.Errorf("%w: node %q lacks Conn or Disks", dr.ErrInvalid, n.Name)
		case slices.ContainsFunc(o.Nodes[:i], func(m Node) bool { return m.Name == n.Name }):
			return fmt.Errorf("%w: two nodes are called %q", dr.ErrInvalid, n.Name)
		}
	}
	if o.Poll < 0 || o.JobLimit < 0 {
		return fmt.Errorf("%w: a time in Options is below 0", dr.ErrInvalid)
	}
	if o.JobLimit == 0 {
		o.JobLimit = 30 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// HyperV is a Hyper-V host, or a cluster of them, as a backend. All methods are
// safe for concurrent use; several processes may use one host, on different
// machines.
type HyperV struct {
	options Options
	nodes   []*node
	locks   keyed.Locks[string] // by machine or key: what changes one, one at a time
	buffers *fsys.Pool
	fresh   time.Duration // freshFor, or a test's

	raised sync.Map // by dr.MachineID: the backend.Fences that this process raised last
}

var (
	_ backend.Backend       = (*HyperV)(nil)
	_ backend.Checker       = (*HyperV)(nil)
	_ backend.Forgetter     = (*HyperV)(nil)
	_ backend.Inspector     = (*HyperV)(nil)
	_ backend.Lister        = (*HyperV)(nil)
	_ backend.NetworkLister = (*HyperV)(nil)
	_ backend.Preflighter   = (*HyperV)(nil)
	_ backend.Prober        = (*HyperV)(nil)
	_ backend.Receiver      = (*HyperV)(nil)
	_ backend.Roomer        = (*HyperV)(nil)
	_ backend.Shutdowner    = (*HyperV)(nil)
	_ backend.Sweeper       = (*HyperV)(nil)
)

// Open makes sure that Hyper-V is there and that the account may look at it.
// The connections stay the caller's: it closes them when the backend and
// everything that it opened is done with.
func Open(ctx context.Context, o Options) (*HyperV, error) {
	if err := o.complete(); err != nil {
		return nil, &dr.Error{Op: "open Hyper-V", Err: err}
	}
	v := &HyperV{options: o, buffers: fsys.NewPool(1<<20, 8), fresh: freshFor}
	for _, n := range o.Nodes {
		x := &node{v: v, name: n.Name, conn: n.Conn, disks: n.Disks}
		if err := x.services(ctx); err != nil {
			return nil, fail("open Hyper-V host "+n.Name, "", "", -1, err)
		}
		v.nodes = append(v.nodes, x)
	}
	return v, nil
}
