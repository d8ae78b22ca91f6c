package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failback"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// The two sites, and the two machines that are protected.
const (
	home, away                 = "hq", "azure"
	web, app   dr.ProtectionID = "web", "app"
)

// world is everything that a program which embeds Lifeboat has to set up, and
// the two simulators.
type world struct {
	vcenter *vcenter
	cloud   *cloud
	witness *witness
	engine  *embedded.Engine
	env     *replication.Env
	screen  *screen
	served  chan error // holds why the engine has stopped
	closers []func() error

	points   known // what the witness said of recovery points
	original map[dr.ProtectionID]dr.MachineID
}

func open(ctx context.Context, dir string, size int64, log *slog.Logger) (w *world, err error) {
	w = &world{witness: newWitness(), screen: &screen{out: os.Stdout}, served: make(chan error, 1), original: map[dr.ProtectionID]dr.MachineID{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.vcenter, err = openVCenter(ctx, dir, w.witness); err != nil {
		return w, err
	}
	w.onClose(w.vcenter.close)
	if w.cloud, err = openCloud(ctx, w.witness); err != nil {
		return w, err
	}
	w.onClose(w.cloud.close)
	points, err := homePoints(dir)
	if err != nil {
		return w, err
	}
	w.onClose(points.Close)
	// One file holds the journal, the records and the claims.
	if w.engine, err = embedded.Open(filepath.Join(dir, "lifeboat.db"), embedded.Options{}); err != nil {
		return w, err
	}
	w.onClose(w.engine.Close)
	w.env = &replication.Env{Records: w.engine, Log: log, Sites: replication.Sites{
		home: {Backend: w.vcenter.backend(), Points: points},
		away: {Backend: w.cloud.azure, Points: azurePoints(w.cloud, log)},
	}}
	if err := w.protect(ctx, size); err != nil {
		return w, err
	}
	return w, w.serve()
}

// protect records what is to be protected. Nothing is copied yet.
func (w *world) protect(ctx context.Context, size int64) error {
	for id, m := range map[dr.ProtectionID]machine{
		web: {name: "web", os: "ubuntu64Guest", address: "10.1.0.10/16", disks: []int64{size}},
		app: {name: "app", os: "windows2019srv_64Guest", uefi: true, address: "10.1.0.20/16", disks: []int64{size, size/2 + 3<<10}},
	} {
		vm, err := w.vcenter.add(m)
		if err != nil {
			return err
		}
		w.original[id] = vm
		if _, err := w.engine.Save(ctx, replication.New(id, dr.Place{Site: home, Machine: vm}, away)); err != nil {
			return err
		}
	}
	return nil
}

// serve runs whatever is started on the engine.
func (w *world) serve() error {
	access := azure.AccessActions(func(site string) (*azure.Azure, error) {
		if site != away {
			return nil, fmt.Errorf("%w: site %q is not at Azure", dr.ErrInvalid, site)
		}
		return w.cloud.azure, nil
	})
	actions, err := dr.Merge(replication.Actions(w.env), failover.Actions(w.env), failback.Actions(w.env), access, w.ownActions())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() { w.served <- w.engine.Serve(ctx, actions) }()
	w.onClose(func() error {
		stop()
		if err := <-w.served; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	return nil
}

func (w *world) onClose(f func() error) { w.closers = append(w.closers, f) }

func (w *world) close() (err error) {
	for len(w.closers) > 0 {
		last := len(w.closers) - 1
		f := w.closers[last]
		w.closers = w.closers[:last]
		err = errors.Join(err, f())
	}
	return err
}

// leftOver says that nothing was left behind, or what was. What points leave
// behind is pruned first, as a program would do every night.
func (w *world) leftOver(ctx context.Context) error {
	if p, ok := w.env.Sites[away].Points.(recoverypoint.Pruner); ok {
		if _, err := p.Prune(ctx); err != nil {
			return err
		}
	}
	left, records, err := w.cloud.left(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind at Azure:\n%s", strings.Join(left, "\n"))
	}
	snapshots, err := w.vcenter.snapshots(ctx)
	if err != nil {
		return err
	}
	if len(snapshots) > 0 {
		return fmt.Errorf("left behind at the vCenter: snapshots of %q", snapshots)
	}
	if err := w.atHome(ctx); err != nil {
		return err
	}
	fmt.Printf("Nothing was left over: Azure has the resources that it had before, and no blobs but %d records; no machine\n", records)
	fmt.Println("of the vCenter has a snapshot.")
	return nil
}

// atHome says in which machines they run now.
func (w *world) atHome(ctx context.Context) error {
	for _, id := range []dr.ProtectionID{web, app} {
		p, err := w.engine.Load(ctx, id)
		if err != nil {
			return err
		}
		m, err := w.vcenter.v.Machine(ctx, p.Active.Machine)
		if err != nil {
			return err
		}
		if again := p.Active.Machine == w.original[id]; again != (id == web) || m.Power != dr.On {
			return fmt.Errorf("%s is machine %s, %s, and was %s", id, m.ID, m.Power, w.original[id])
		}
	}
	fmt.Println("At home run web, in the machine that it was, and app, in one that was built anew.")
	return nil
}
