package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Nothing but HTTPS, with the certificate verified: the way that needs nothing
// installed.
func TestRoundsOverNFC(t *testing.T) {
	s := newSite(t, vmwaretest.Options{Reader: "auditor"})
	s.args = []string{"--transport", "nfc"}
	web, db := s.add("web-1", 1, 3*mib, 5*mib), s.add("db", 2, 2*mib)
	s.add("web-2", 3, mib)

	r := s.protect("--name", "web-[1]", "db")
	require.Regexp(t, `(?m)^db +crash +2\.0 MiB +2\.0 MiB +2\.0 MiB +\S+ +\S+$`, r.out)
	require.Regexp(t, `(?m)^web-1 +crash +8\.0 MiB +8\.0 MiB +8\.0 MiB +\S+ +\S+$`, r.out)
	require.Regexp(t, `(?m)^2 points of 2 machines in `, r.out)
	require.NotContains(t, r.out, "web-2")
	s.holds(web, web.want)
	s.holds(db, db.want)
	s.clean(web, db)

	web.write(1, noise(64<<10), mib)
	r = s.protect("--once", "--name", "web-1", "db")
	require.Regexp(t, `(?m)^db +crash +0 B +0 B +0 B`, r.out)
	require.Regexp(t, `(?m)^web-1 +crash +64\.0 KiB +64\.0 KiB +64\.0 KiB`, r.out)
	s.holds(web, web.live())
	s.holds(db, db.live())
	s.clean(web, db)
	s.verified("no damage: 4 points of 2 machines")

	c := exec.CommandContext(t.Context(), vaultBinary, "ls", "--store", s.store)
	ls := end(t, c)
	require.Zero(t, ls.code)
	require.Equal(t, 2, strings.Count(ls.out, string(web.id)))
	require.Contains(t, ls.out, "  crash        2      8.0 MiB")
}

func TestAchievedConsistencyIsShown(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	s.addSpec(vmwaretest.VMSpec{Name: "win", InstanceUUID: "50000000-0000-0000-0000-000000000001", GuestID: "windows2019srv_64Guest"}, mib)
	s.addSpec(vmwaretest.VMSpec{Name: "lin", InstanceUUID: "50000000-0000-0000-0000-000000000002", GuestID: "debian11_64Guest"}, mib)
	s.addSpec(vmwaretest.VMSpec{Name: "mute", InstanceUUID: "50000000-0000-0000-0000-000000000003", Guest: vmwaretest.Guest{Tools: vmwaretest.ToolsMissing}}, mib)
	r := s.protect("--all", "--consistency", "application")
	require.Regexp(t, `(?m)^win +application `, r.out)
	require.Regexp(t, `(?m)^lin +file-system `, r.out)
	require.Regexp(t, `(?m)^mute +crash `, r.out)
	require.Regexp(t, `(?m)^\d+ notes on 3 machines: --list prints them$`, r.errors)
}

func TestOneMachineThatFailsHoldsUpNoOther(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	good := s.add("good", 1, mib)
	bad := s.addSpec(vmwaretest.VMSpec{Name: "bad", InstanceUUID: "50000000-0000-0000-0000-000000000002", Disks: []vmwaretest.DiskSpec{
		{Size: mib}, {Size: mib, UUID: "6000c29a-0000-0000-0000-00000000000f", Mode: types.VirtualDiskModeIndependent_persistent}}})
	r := s.run("--store", s.store, "--all")
	require.Equal(t, 3, r.code)
	require.Regexp(t, `(?m)^bad: failed: .*disk 6000c29a-0000-0000-0000-00000000000f: .*independent.*\[disk-independent\]: .+$`, r.errors)
	require.True(t, strings.HasSuffix(r.errors, program+": incomplete: 1 of 2 machines failed\n"), r.errors)
	require.Regexp(t, `(?m)^bad +failed +- +- +- +\S+ +no point$`, r.out)
	require.Regexp(t, `(?m)^good +crash +1\.0 MiB`, r.out)
	s.holds(good, good.want)
	require.Empty(t, s.points(bad.id))
	s.clean(good, bad)

	// What fails in the middle, after the preflight.
	s.sim.Fault(vmwaretest.Fault{Call: "CreateSnapshot_Task", Err: &types.NoPermission{PrivilegeId: "VirtualMachine.State.CreateSnapshot"}})
	r = s.run("--store", s.store, "good")
	require.Equal(t, 1, r.code)
	require.Regexp(t, `good: failed: .*give the account the privilege VirtualMachine\.State\.CreateSnapshot`, r.errors)
	require.Len(t, s.points(good.id), 1)
}

func TestListAndCheck(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	s.add("web", 1, mib)
	r := s.run("--list")
	require.Equal(t, 0, r.code)
	require.Regexp(t, `(?m)^web +50000000-0000-0000-0000-000000000001 +on +1 +1\.0 MiB +yes$`, r.out)
	require.Contains(t, r.out, "web: note: ")
	s.addSpec(vmwaretest.VMSpec{Name: "raw", InstanceUUID: "50000000-0000-0000-0000-000000000002", Disks: []vmwaretest.DiskSpec{{Size: mib, RawDevice: true}}})
	r = s.run("--list")
	require.Equal(t, 3, r.code)
	require.Regexp(t, `(?m)^raw .* no$`, r.out)
	require.Regexp(t, `(?m)^raw: refused: disk .*\[disk-raw\]`, r.out)
	require.Equal(t, program+": incomplete: 1 of 2 machines can't be protected\n", r.errors)

	require.Equal(t, result{0, "nothing stands in the way\n", ""}, s.run("--check"))
	s.sim.Deny("VirtualMachine.State.CreateSnapshot", "VirtualMachine.Config.Settings")
	r = s.run("--check")
	require.Equal(t, 3, r.code)
	require.Regexp(t, `(?m)^refused: the account lacks the privilege VirtualMachine\.State\.CreateSnapshot \[privilege-missing\]`, r.out)
	require.Regexp(t, `(?m)^note: the account lacks the privilege VirtualMachine\.Config\.Settings`, r.out)
	require.NoDirExists(t, s.store)
}

func TestSelection(t *testing.T) {
	s := newSite(t, vmwaretest.Options{Datacenters: []vmwaretest.Datacenter{
		{Name: "east", Folders: []string{"prod"}, Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-0"}}}, Datastores: []vmwaretest.Datastore{{Name: "e"}}},
		{Name: "west", Clusters: []vmwaretest.Cluster{{Name: "C0", Hosts: []string{"esx-1"}}}, Datastores: []vmwaretest.Datastore{{Name: "w"}}},
	}})
	for i, m := range []vmwaretest.VMSpec{{Name: "web-1", Datacenter: "east", Folder: "prod"}, {Name: "web-2", Datacenter: "east"}, {Name: "odd[1]*", Datacenter: "east"}, {Name: "web-1", Datacenter: "west"}} {
		m.InstanceUUID = "50000000-0000-0000-0000-00000000000" + string(rune('1'+i))
		s.addSpec(m)
	}
	for _, c := range []struct {
		args string
		want string // last digits of the UUIDs, in the order of names
	}{
		{"", "3142"}, {"--all", "3142"}, {"--name web-*", "142"}, {"--name web-* --exclude *-2", "14"}, {"--folder /east/vm/prod", "1"},
		{"--folder /east/vm --name web-2", "2"}, {"--dc west", "4"}, {"odd[1]*", "3"}, {"--folder /east/vm/prod web-2", "12"},
		{"50000000-0000-0000-0000-000000000004", "4"}, {"--dc /west web-1", "4"},
	} {
		r := s.run(append([]string{"--list"}, strings.Fields(c.args)...)...)
		require.Equal(t, 0, r.code, "%s: %s", c.args, r.errors)
		got := ""
		for line := range strings.Lines(r.out) {
			if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], "50000000-") {
				got += f[1][len(f[1])-1:]
			}
		}
		require.Equal(t, c.want, got, c.args)
	}
	for args, says := range map[string]string{
		"web-1":         `machine "web-1": ambiguous: several have the name; give the instance UUID instead: 50000000-0000-0000-0000-000000000001, 50000000-0000-0000-0000-000000000004`,
		"wbe":           `machine "wbe": not found: --list prints those that the account sees`,
		"--name nobody": `not found: no machine fits that the account may see; --list without --name and --folder prints all`,
	} {
		r := s.run(append([]string{"--store", s.store}, strings.Fields(args)...)...)
		require.Equal(t, result{1, "", program + ": " + says + "\n"}, r)
	}
}

func TestConnecting(t *testing.T) {
	s := newSite(t, vmwaretest.Options{Password: "correct horse"})
	s.add("web", 1, mib)
	without := func(names ...string) []string {
		var env []string
		for _, v := range s.env {
			keep := true
			for _, n := range names {
				keep = keep && !strings.HasPrefix(v, n+"=")
			}
			if keep {
				env = append(env, v)
			}
		}
		return env
	}
	with := func(env []string, args ...string) result {
		t.Helper()
		c := s.command(append(args, "--check")...)
		c.Env = env
		return end(t, c)
	}
	require.Equal(t, 0, with(s.env).code)

	r := with(append(without("GOVC_PASSWORD"), "GOVC_PASSWORD=wrong staple"))
	require.Equal(t, result{13, "", program + ": no connection: " + s.sim.URL.Host + " refuses the login of " + s.sim.URL.User.Username() + ": check GOVC_USERNAME and GOVC_PASSWORD\n"}, r)

	untrusted := without("GOVC_TLS_CA_CERTS")
	r = with(untrusted)
	require.Equal(t, 13, r.code)
	require.Regexp(t, `^`+program+`: no connection: the certificate of \S+ isn't trusted: x509: .*--tls-ca-certs or --tls-known-hosts; -k trusts anybody\n$`, r.errors)
	require.Zero(t, with(untrusted, "-k").code)
	require.Zero(t, with(append(untrusted, "GOVC_INSECURE=1")).code)
	require.Equal(t, 13, with(append(untrusted, "GOVC_INSECURE=1"), "-k=false").code, "options win")

	known := filepath.Join(t.TempDir(), "known_hosts")
	require.NoError(t, os.WriteFile(known, []byte("other.example "+strings.Repeat("AA:", 19)+"AA\n"+s.sim.URL.Host+" "+s.thumbprint()+"\n"), 0o600))
	require.Zero(t, with(untrusted, "--tls-known-hosts", known).code)
	require.NoError(t, os.WriteFile(known, []byte(s.sim.URL.Host+" "+strings.Repeat("AA:", 19)+"AA\n"), 0o600))
	require.Equal(t, 13, with(untrusted, "--tls-known-hosts", known).code)

	// The other ways to say who one is.
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("correct horse\n"), 0o600))
	require.Zero(t, with(append(without("GOVC_PASSWORD"), "GOVC_PASSWORD="+secret)).code)
	require.Zero(t, with(append(without("GOVC_URL", "GOVC_USERNAME", "GOVC_PASSWORD"), "GOVC_URL="+s.sim.URL.String())).code)
	require.Zero(t, with(without("GOVC_URL", "GOVC_USERNAME"), "-u", "https://administrator%40vsphere.local@"+s.sim.URL.Host+"/sdk").code)

	r = with(append(without("GOVC_URL"), "GOVC_URL=127.0.0.1:1"))
	require.Equal(t, 13, r.code)
	r = with(s.env, "-u", "root:hunter2@esx")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.errors, "no password may be on the command line")
	require.NotContains(t, r.errors, "hunter2")
}

func TestEncryptedStore(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	s.add("web", 1, mib)
	phrase, wrong := filepath.Join(t.TempDir(), "phrase"), filepath.Join(t.TempDir(), "wrong")
	require.NoError(t, os.WriteFile(phrase, []byte("open sesame\n"), 0o600))
	require.NoError(t, os.WriteFile(wrong, []byte("open barley\n"), 0o600))
	s.protect("web", "--passphrase-file", phrase)
	r := s.run("--store", s.store, "web", "--passphrase-file", wrong)
	require.Equal(t, 12, r.code)
	r = s.run("--store", s.store, "web")
	require.Equal(t, 12, r.code)
	require.Contains(t, r.errors, "is encrypted: give its passphrase with --passphrase-file or $LIFEBOAT_PASSPHRASE_FILE")
	s.env = append(s.env, "LIFEBOAT_PASSPHRASE=open sesame")
	s.protect("web")
	s.verified("no damage: 2 points of 1 machine")
}

func TestBusyStore(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	g := s.add("web", 1, mib)
	s.protect("web")
	v := s.open()
	defer v.Close()
	d, err := v.Create(t.Context(), dr.Point{ID: "p", Machine: dr.Machine{ID: "other"}})
	require.NoError(t, err)
	defer d.Close()
	r := s.run("--store", s.store, "web")
	require.Equal(t, 11, r.code)
	s.clean(g)
}

func TestUsage(t *testing.T) {
	s := newSite(t, vmwaretest.Options{})
	r := s.run("--help")
	require.Equal(t, result{0, help, ""}, r)
	for _, line := range strings.Split(help, "\n") {
		require.LessOrEqual(t, len(line), 80, line)
	}
	for args, says := range map[string]string{
		"":                                   "--store must be given",
		"--store d":                          "which machines?",
		"--store d --all --once --every 5m":  "--once and --every can't",
		"--list --check":                     "can't be given together",
		"--store d --all --name x":           "--all can't be given together",
		"--store d --name [":                 "makes no sense",
		"--store d --all --every 5":          "is no duration",
		"--store d --all --keep -3h":         "is no duration",
		"--store d --all --limit 10furlong":  "is no size",
		"--store d --all --consistency no":   "want crash or application",
		"--store d --all --transport smoke":  "want vddk, hotadd, folder or nfc",
		"--store d --all --transport hotadd": "--appliance must say",
		"--store d --all --parallel 0":       "--parallel must be",
		"--store d --all --password x":       "-password",
	} {
		r := s.run(strings.Fields(args)...)
		require.Equal(t, 2, r.code, args)
		require.Contains(t, r.errors, says)
		require.Empty(t, r.out)
	}
	for in, want := range map[string]int64{"100MiB": 100 << 20, "1G": 1 << 30, "2KiB": 2048, "2 mib": 2 << 20, "77": 77, "5B": 5} {
		got, err := parseSize(in)
		require.NoError(t, err)
		require.Equal(t, want, got, in)
	}
}
