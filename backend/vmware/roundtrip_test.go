package vmware

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/backendtest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
)

func vsphereEnd(t *testing.T, name string) roundtriptest.End {
	return endOf(t, newVCenter(t, vmwaretest.Options{}).harness(t), name)
}

// nbdkitEnd is a vCenter whose disks travel through a real nbdkit: its file
// plugin serves the frozen bytes where the vddk plugin would, and takes back
// what is written.
func nbdkitEnd(t *testing.T, name string) roundtriptest.End {
	program := tool(t, "nbdkit")
	w := newVCenter(t, vmwaretest.Options{})
	w.o.Transports, w.o.Force = []Transport{Servers(&filePlugin{sim: w.sim, program: program, dir: shortFolder(t)})}, true
	return endOf(t, w.harness(t), name)
}

// filePlugin serves the simulator's disks by nbdkit.
type filePlugin struct {
	sim          *vmwaretest.Simulator
	program, dir string
	n            atomic.Int64
}

func (f *filePlugin) ServeDisk(ctx context.Context, r DiskRequest) (string, func() error, error) {
	path := filepath.Join(f.dir, fmt.Sprint(f.n.Add(1)))
	e := vmwaretest.NBDExport{VM: types.ManagedObjectReference{Type: "VirtualMachine", Value: r.VM}, File: r.File}
	if r.Snapshot != "" {
		e.Snapshot = types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: r.Snapshot}
	}
	if err := f.sim.WriteRaw(path, e); err != nil {
		return "", nil, err
	}
	cmd := exec.Command(f.program, "--foreground", "--exit-with-parent", "--unix", path+".s", "file", path)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	for {
		if c, err := net.Dial("unix", path+".s"); err == nil {
			c.Close()
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return "", nil, ctx.Err()
		}
	}
	return "nbd+unix:///?socket=" + path + ".s", func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		defer os.Remove(path)
		if r.ReadOnly {
			return nil
		}
		_, err := f.sim.ReadRaw(path, e)
		return err
	}, nil
}

func memoryEnd(t *testing.T, name string) roundtriptest.End {
	b := memory.New(memory.Options{Site: name})
	return roundtriptest.End{Harness: backendtest.Simulated(b, b), Name: name}
}

// endOf is a vCenter as a site. Nothing of ours is left on what came home to it.
func endOf(t *testing.T, h backendtest.Harness, name string) roundtriptest.End {
	return roundtriptest.End{Harness: h, Name: name, Clean: func(t *testing.T, id dr.MachineID) {
		v, ok := dr.As[*VSphere](h.Backend)
		require.True(t, ok)
		m, err := v.find(context.Background(), id)
		require.NoError(t, err)
		for _, s := range m.snapshots() {
			require.False(t, s.ours, "snapshot %s is left", s.name)
		}
	}}
}

// The whole cycle, with vSphere on either side and on both, and a guest that
// writes all the time.
func TestRoundTrip(t *testing.T) {
	for name, ends := range map[string]func(*testing.T) (home, far roundtriptest.End){
		"from vSphere": func(t *testing.T) (roundtriptest.End, roundtriptest.End) {
			return vsphereEnd(t, "home"), memoryEnd(t, "far")
		},
		"to vSphere": func(t *testing.T) (roundtriptest.End, roundtriptest.End) {
			return memoryEnd(t, "home"), vsphereEnd(t, "far")
		},
		"through nbdkit": func(t *testing.T) (roundtriptest.End, roundtriptest.End) {
			return nbdkitEnd(t, "home"), memoryEnd(t, "far")
		},
		"between vCenters": func(t *testing.T) (roundtriptest.End, roundtriptest.End) {
			return vsphereEnd(t, "home"), vsphereEnd(t, "far")
		},
	} {
		t.Run(name, func(t *testing.T) {
			home, far := ends(t)
			roundtriptest.Run(t, home, far)
		})
	}
}
