package roundtriptest_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/backend/remote/trialpki"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failback/roundtriptest"
)

// lack skips the test, or fails it where everything has to be there.
func lack(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("LIFEBOAT_REQUIRE=all, and %s", why)
	}
	t.Skip(why)
}

// A physical server that failed over to Azure fails back to VMware, as Azure
// Site Recovery has it.
func TestPhysicalToAzureToVMware(t *testing.T) {
	t.Parallel()
	roundtriptest.OutAndElsewhere(t, hosts(t, "home"), subscription(t, "far"),
		roundtriptest.Elsewhere{End: vsphere(t, "other")})
}

// The machine was rebuilt with other disks, larger and not empty, under a rescue
// system.
func TestPhysicalToAzureToRebuilt(t *testing.T) {
	t.Run("image files behind an agent", func(t *testing.T) {
		t.Parallel()
		_, to := rebuilt(t, "other", func(size int64) string {
			path := filepath.Join(t.TempDir(), "bare")
			require.NoError(t, errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)))
			return path
		})
		to.End = agents(t)(to.End)
		to.Where.Options = json.RawMessage(`{"disks": {"data": "wwn-data"}}`)
		roundtriptest.OutAndElsewhere(t, hosts(t, "home"), subscription(t, "far"), to)
	})
	t.Run("block devices", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() != 0 {
			lack(t, "loop devices need root")
		}
		var devices []string
		x, to := rebuilt(t, "other", func(size int64) string {
			file := filepath.Join(t.TempDir(), "backing")
			require.NoError(t, errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)))
			out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
			if err != nil {
				lack(t, "losetup can't make a loop device: "+string(out))
			}
			device := strings.TrimSpace(string(out))
			t.Cleanup(func() { _ = exec.Command("losetup", "-d", device).Run() })
			run(t, "mkfs.ext4", "-q", "-F", device) // somebody's, once
			devices = append(devices, device)
			return device
		})
		to.Ready = 1024
		checked := false
		x.starts = func() {
			require.Contains(t, run(t, "sgdisk", "-v", devices[0]), "No problems found", "when it starts")
			checked = true
		}
		to.Last = bootable
		roundtriptest.OutAndElsewhere(t, hosts(t, "home"), subscription(t, "far"), to)
		require.True(t, checked)
	})
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		lack(t, name+" is not installed")
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s: %s", name, out)
	return string(out)
}

// bootable has the guest write a partition table, both ends of it.
func bootable(t *testing.T, tr *roundtriptest.Trip, away dr.MachineID) {
	d := tr.Disks[0]
	file := filepath.Join(t.TempDir(), "table")
	require.NoError(t, errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, d.Size)))
	run(t, "bash", "-ec", `printf 'label: gpt\nfirst-lba: 34\nstart=40,size=1000\nstart=2048,size=2048\n' | sfdisk -q "$0"`, file)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, tr.Far.Write(away, d.ID, b[:34*512], 0))
	require.NoError(t, tr.Far.Write(away, d.ID, b[len(b)-33*512:], d.Size-33*512))
}

// rebuilt is a host with a machine "new" of two given-up disks, which are larger
// than those of the machine that comes, and have other IDs.
func rebuilt(t *testing.T, name string, disk func(size int64) string) (*host, roundtriptest.Elsewhere) {
	x := newHost(t)
	boot, data := disk(9<<20), disk(6<<20)
	require.NoError(t, x.h.Add(physical.Machine{ID: "new", Power: dr.Off, NICs: []dr.NIC{{ID: "nic0", Network: network}}, Disks: []physical.Disk{
		{ID: "wwn-data", Path: data, GivenUp: true}, {ID: "wwn-boot", Path: boot, Boot: true, GivenUp: true},
	}}))
	// What was on it before comes to nobody.
	junk := make([]byte, 1<<20)
	_, _ = rand.Read(junk)
	for _, path := range []string{boot, data} {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt(junk, 3<<20)
		require.NoError(t, errors.Join(err, f.Close()))
	}
	e := x.end(name)
	return x, roundtriptest.Elsewhere{End: e, Machine: "new"}
}

// Both hosts behind agents, and home to the host that it came from.
func TestPhysicalToPhysicalOverAgents(t *testing.T) {
	t.Parallel()
	behind := agents(t)
	roundtriptest.OutAndHome(t, behind(hosts(t, "home")), behind(hosts(t, "far")))
}

// agents returns what puts a backend behind an agent, with certificates.
func agents(t *testing.T) func(roundtriptest.End) roundtriptest.End {
	ca, err := trialpki.New("trial", time.Hour)
	require.NoError(t, err)
	server, err := ca.Server("agent", "127.0.0.1")
	require.NoError(t, err)
	client, err := ca.Client("replicator")
	require.NoError(t, err)
	s, err := server.TLS()
	require.NoError(t, err)
	c, err := client.TLS()
	require.NoError(t, err)
	return func(e roundtriptest.End) roundtriptest.End {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		b := e.Backend
		go func() {
			done <- remote.Serve(ctx, ln, b, remote.ServeOptions{Grace: -1,
				TLS: &tls.Config{Certificates: []tls.Certificate{s}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}})
		}()
		t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
		d, err := remote.Dial(t.Context(), ln.Addr().String(), remote.DialOptions{TLS: &tls.Config{Certificates: []tls.Certificate{c}, RootCAs: ca.Pool()}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		e.Backend = d
		return e
	}
}
