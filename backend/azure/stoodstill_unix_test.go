//go:build unix

package azure_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// oldWorker is what the worker of another process is told by its environment.
type oldWorker struct {
	ARM, Staging, Key string
	Placement         backend.Placement
	Point             dr.Point
	Fill              byte
	Epoch             uint64
}

const oldWorkerEnv = "LIFEBOAT_TEST_OLD_WORKER"

// TestMain is the old worker where it is told to be.
func TestMain(m *testing.M) {
	told := os.Getenv(oldWorkerEnv)
	if told == "" {
		os.Exit(m.Run())
	}
	var w oldWorker
	err := json.Unmarshal([]byte(told), &w)
	if err == nil {
		err = w.work()
	}
	if err != nil {
		fmt.Println(err)
	}
	switch {
	case errors.Is(err, dr.ErrFenced):
		os.Exit(3)
	case err != nil:
		os.Exit(4)
	}
	os.Exit(0)
}

// work brings a machine up, as the steps of a failover do, under an epoch.
func (w oldWorker) work() error {
	simulated := azuretest.New(azuretest.Options{}) // for its options
	defer simulated.Close()
	options := simulated.ClientOptions()
	options.Cloud.Services = map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: w.ARM, Audience: w.ARM}}
	options.Transport = http.DefaultClient
	key, err := container.NewSharedKeyCredential("staging", w.Key)
	if err != nil {
		return err
	}
	staging, err := container.NewClientWithSharedKeyCredential(w.Staging+"/lifeboat", key, nil)
	if err != nil {
		return err
	}
	a, err := azure.Open(azure.Options{Subscription: simulated.Subscription(), Credential: simulated.Credential(), ARM: options,
		ResourceGroup: group, Location: simulated.Location(), Sources: []string{sources}, Staging: staging,
		StorageAccount: "/subscriptions/" + simulated.Subscription() + "/resourceGroups/" + group + "/providers/Microsoft.Storage/storageAccounts/staging",
		Network:        "prod/default", DrillNetwork: "drill", Poll: time.Millisecond})
	if err != nil {
		return err
	}
	a.Serially()
	ctx := dr.WithFences(context.Background(), map[string]uint64{claim: w.Epoch})
	r, err := a.Prepare(ctx, w.Placement)
	if err != nil {
		return err
	}
	d, err := a.Draft(ctx, r.ID, w.Point)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, x := range w.Point.Machine.Disks {
		if _, err := d.WriteAt(ctx, x.ID, bytes.Repeat([]byte{w.Fill}, int(x.Size)), 0); err != nil {
			return err
		}
	}
	if err := d.Commit(ctx, w.Point); err != nil {
		return err
	}
	return a.Start(ctx, r.ID)
}

// A worker process is stopped by the kernel while it brings a machine up. Another
// one takes the claim over and brings up another point. When the first one goes
// on, it comes to its end without having changed anything, but for the request
// that was on its way.
func TestWorkerThatStoodStill(t *testing.T) {
	for name, stop := range map[string]func(c azuretest.Call) bool{
		"before its disks are imported": func(c azuretest.Call) bool {
			return c.Method == http.MethodGet && strings.HasSuffix(c.Path, "/virtualMachines/web")
		},
		"as it begins to write": func(c azuretest.Call) bool {
			return c.Method == http.MethodPut && strings.Contains(c.Path, "/disks/lb-") && strings.Contains(c.Query, "comp=lease")
		},
		"as it imports a disk": func(c azuretest.Call) bool {
			return c.Method == http.MethodPut && strings.Contains(c.Path, "/Microsoft.Compute/disks/")
		},
		"as it makes the machine": func(c azuretest.Call) bool {
			return c.Method == http.MethodPut && strings.HasSuffix(c.Path, "/virtualMachines/web")
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newErrand(t, t.Name())
			e.a.Serially()
			e.id = azure.ReplicaID("errand")
			url, key := e.r.cloud.Blobs().Account("staging")
			told, err := json.Marshal(oldWorker{ARM: e.r.cloud.URL(), Staging: url, Key: key, Placement: e.placement(),
				Point: dr.Point{ID: "p1", Machine: e.like}, Fill: 0xee, Epoch: 1})
			require.NoError(t, err)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), oldWorkerEnv+"="+string(told))
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			started := make(chan struct{})
			stopped, taken := false, false
			var after []azuretest.Call
			e.r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
				switch {
				case !stopped && stop(c):
					stopped = true
					<-started // its first call may be here before Start is back
					require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
					e.takeOver(time.Now())
					taken = true
					require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
				case taken && late(c):
					after = append(after, c)
				}
				return nil
			})
			require.NoError(t, cmd.Start())
			close(started)
			err = cmd.Wait()
			e.r.cloud.OnCall(nil)
			require.True(t, taken, "%v %s", err, out.String())
			require.Error(t, err, "it came to its end as if nothing had been")
			// What it works on may be gone too, by now.
			require.Contains(t, []int{3, 4}, cmd.ProcessState.ExitCode(), out.String())
			require.Empty(t, after)
			e.same()
			m, err := e.a.Machine(t.Context(), e.id)
			require.NoError(t, err)
			require.Equal(t, dr.On, m.Power)
		})
	}
}

// takeOver is the new owner: it brings another point up, and takes longer for it
// than the old one trusts what it has seen.
func (e *errand) takeOver(since time.Time) {
	ctx := e.under(2)
	if err := e.a.Stop(ctx, e.id); !errors.Is(err, dr.ErrNotFound) {
		require.NoError(e.t, err)
	}
	_, err := e.a.Prepare(ctx, e.placement())
	require.NoError(e.t, err)
	p := dr.Point{ID: "p2", Machine: e.like}
	d, err := e.a.Draft(ctx, e.id, p)
	require.NoError(e.t, err)
	for _, x := range e.disks {
		_, err := d.WriteAt(ctx, x.ID, e.want[x.ID], 0)
		require.NoError(e.t, err)
	}
	require.NoError(e.t, d.Commit(ctx, p))
	require.NoError(e.t, d.Close())
	require.NoError(e.t, e.a.Start(ctx, e.id))
	<-time.After(time.Until(since.Add(azure.UsualTrust + 100*time.Millisecond)))
}
