package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

const mib = 1 << 20

// The commands as users have them: this one, and the one that reads its vaults.
var binary, vaultBinary string

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "nbdkit" {
		os.Exit(standIn(os.Args))
	}
	dir, err := os.MkdirTemp("", "v2d")
	if err != nil {
		panic(err)
	}
	build := func(name, pkg string) string {
		path := filepath.Join(dir, name)
		if runtime.GOOS == "windows" {
			path += ".exe"
		}
		if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
			panic(fmt.Sprintf("go build: %v\n%s", err, out))
		}
		return path
	}
	binary, vaultBinary = build(program, "."), build("vault", "../vault")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// site is a vCenter, and a folder to copy to.
type site struct {
	t     testing.TB
	sim   *vmwaretest.Simulator
	store string
	env   []string
	args  []string // of every run
}

func newSite(t testing.TB, o vmwaretest.Options) *site {
	sim := vmwaretest.New(t, o)
	s := &site{t: t, sim: sim, store: filepath.Join(t.TempDir(), "store")}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "GOVC_") && !strings.HasPrefix(v, "LIFEBOAT_") {
			s.env = append(s.env, v)
		}
	}
	password, _ := sim.URL.User.Password()
	s.env = append(s.env, "GOVC_URL="+sim.URL.Host, "GOVC_USERNAME="+sim.URL.User.Username(), "GOVC_PASSWORD="+password,
		"GOVC_TLS_CA_CERTS="+s.certificate())
	return s
}

// certificate writes the simulator's own, which is its root.
func (s *site) certificate() string {
	c, err := tls.Dial("tcp", s.sim.URL.Host, &tls.Config{InsecureSkipVerify: true})
	require.NoError(s.t, err)
	defer c.Close()
	file := filepath.Join(s.t.TempDir(), "ca.pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ConnectionState().PeerCertificates[0].Raw})
	require.NoError(s.t, os.WriteFile(file, b, 0o600))
	return file
}

func (s *site) thumbprint() string {
	c, err := tls.Dial("tcp", s.sim.URL.Host, &tls.Config{InsecureSkipVerify: true})
	require.NoError(s.t, err)
	defer c.Close()
	return soap.ThumbprintSHA1(c.ConnectionState().PeerCertificates[0])
}

// guest is a machine with what its disks hold.
type guest struct {
	t    testing.TB
	id   dr.MachineID
	vm   *vmwaretest.VM
	want [][]byte
}

// add makes a machine, with disks of these sizes that are full of noise.
func (s *site) add(name string, n byte, sizes ...int64) *guest {
	s.t.Helper()
	return s.addSpec(vmwaretest.VMSpec{Name: name, InstanceUUID: fmt.Sprintf("50000000-0000-0000-0000-%012x", n)}, sizes...)
}

func (s *site) addSpec(spec vmwaretest.VMSpec, sizes ...int64) *guest {
	s.t.Helper()
	for _, size := range sizes {
		spec.Disks = append(spec.Disks, vmwaretest.DiskSpec{Size: size})
	}
	vm, err := s.sim.AddVM(spec)
	require.NoError(s.t, err)
	g := &guest{t: s.t, id: dr.MachineID(spec.InstanceUUID), vm: vm}
	for _, d := range vm.Disks() {
		g.want = append(g.want, make([]byte, vm.Size(d)))
	}
	for i := range sizes {
		g.write(i, noise(int(sizes[i])), 0)
	}
	return g
}

func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(rand.Uint32())})
	_, _ = r.Read(p)
	return p
}

func (g *guest) write(disk int, p []byte, off int64) {
	g.t.Helper()
	require.NoError(g.t, g.vm.WriteDisk(g.vm.Disks()[disk], p, off))
	copy(g.want[disk][off:], p)
}

// result is how a run of the command ended.
type result struct {
	code        int
	out, errors string
}

func (s *site) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(s.t.Context(), binary, append(args, s.args...)...)
	c.Env = s.env
	return c
}

func end(t testing.TB, c *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &out
	} else {
		c.Stdout = io.MultiWriter(&out, c.Stdout)
	}
	c.Stderr = &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	r := result{c.ProcessState.ExitCode(), out.String(), errs.String()}
	t.Logf("%s\n%s%s(exit %d)", strings.Join(c.Args[1:], " "), r.errors, r.out, r.code)
	for _, v := range c.Env {
		if p, ok := strings.CutPrefix(v, "GOVC_PASSWORD="); ok {
			require.NotContains(t, r.out+r.errors, p, "a password that was shown")
		}
	}
	return r
}

func (s *site) run(args ...string) result { s.t.Helper(); return end(s.t, s.command(args...)) }

// protect makes one round, which must succeed.
func (s *site) protect(args ...string) result {
	s.t.Helper()
	before := s.sim.Sessions()
	r := s.run(append([]string{"--store", s.store}, args...)...)
	require.Equal(s.t, 0, r.code, r.errors)
	require.Equal(s.t, before, s.sim.Sessions(), "the session was ended")
	return r
}

// points are those of a machine in the store, oldest first.
func (s *site) points(id dr.MachineID) (all []dr.Point) {
	s.t.Helper()
	v := s.open()
	defer v.Close()
	for p, err := range v.List(context.Background(), id) {
		require.NoError(s.t, err)
		all = append(all, p)
	}
	return all
}

func (s *site) open() *vault.Store {
	s.t.Helper()
	v, err := vault.OpenDir(s.store, vault.Options{Existing: true})
	require.NoError(s.t, err)
	return v
}

// holds compares the newest point with what the machine held.
func (s *site) holds(g *guest, want [][]byte) {
	s.t.Helper()
	all := s.points(g.id)
	require.NotEmpty(s.t, all)
	p := all[len(all)-1]
	require.Len(s.t, p.Machine.Disks, len(want))
	v := s.open()
	defer v.Close()
	img, err := v.Open(context.Background(), g.id, p.ID)
	require.NoError(s.t, err)
	defer img.Close()
	for i, d := range p.Machine.Disks {
		got := make([]byte, d.Size)
		_, err := img.ReadAt(context.Background(), d.ID, got, 0)
		require.NoError(s.t, err)
		require.True(s.t, bytes.Equal(want[i], got), "disk %d of %s differs", i, p.Machine.Name)
	}
}

// live reads the simulator's disks themselves.
func (g *guest) live() (all [][]byte) {
	g.t.Helper()
	for _, d := range g.vm.Disks() {
		p := make([]byte, g.vm.Size(d))
		_, err := g.vm.Read(d, p, 0)
		require.NoError(g.t, err)
		all = append(all, p)
	}
	return all
}

// verified has the vault's own command read everything.
func (s *site) verified(says string) {
	s.t.Helper()
	c := exec.CommandContext(s.t.Context(), vaultBinary, "verify", "--store", s.store)
	c.Env = s.env
	r := end(s.t, c)
	require.Equal(s.t, result{0, says + "\n", ""}, r)
}

func (s *site) clean(all ...*guest) {
	s.t.Helper()
	for _, g := range all {
		require.Zero(s.t, g.vm.Snapshots(), "snapshots that are left of %s", g.id)
	}
	require.Zero(s.t, s.sim.Leases())
}
