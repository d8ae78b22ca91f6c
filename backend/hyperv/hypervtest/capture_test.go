package hypervtest_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/hypervtest"
)

// hv is a host with a connection, and the calls that every test makes.
type hv struct {
	*hypervtest.Host
	t     *testing.T
	conn  host.Conn
	disks host.Disks
}

func open(t *testing.T, opts hypervtest.Options) *hv { return wrap(t, hypervtest.New(t, opts)) }

func wrap(t *testing.T, h *hypervtest.Host) *hv {
	c := h.Conn()
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return &hv{h, t, c, h.Disks()}
}

func (h *hv) one(wql string) host.Object {
	h.t.Helper()
	all, err := h.conn.Query(h.t.Context(), wql)
	require.NoError(h.t, err)
	require.Len(h.t, all, 1, wql)
	return all[0]
}

func (h *hv) service(name string) host.Ref { return h.one("SELECT * FROM " + name).Path }

func (h *hv) system(vm *hypervtest.VM) host.Ref {
	return h.one("SELECT * FROM Msvm_ComputerSystem WHERE Name='" + vm.ID() + "'").Path
}

func (h *hv) text(class string, p host.Props) string {
	h.t.Helper()
	s, err := h.conn.Text(h.t.Context(), class, p)
	require.NoError(h.t, err)
	return s
}

// wait polls a job until it has ended.
func (h *hv) wait(r host.Result) (job host.Object) {
	h.t.Helper()
	require.EqualValues(h.t, 4096, r.Return)
	for range 100 {
		job, err := h.conn.Get(h.t.Context(), host.Ref(r.Out.String("Job")))
		require.NoError(h.t, err)
		if s, _ := job.Props.Int("JobState"); s > 4 {
			return job
		}
	}
	h.t.Fatal("the job doesn't end")
	return job
}

func (h *hv) invoke(path host.Ref, method string, in host.Props) host.Result {
	h.t.Helper()
	r, err := h.conn.Invoke(h.t.Context(), path, method, in)
	require.NoError(h.t, err)
	return r
}

// do invokes a method and wants its job to succeed.
func (h *hv) do(path host.Ref, method string, in host.Props) (job host.Object) {
	h.t.Helper()
	job = h.wait(h.invoke(path, method, in))
	s, _ := job.Props.Int("JobState")
	require.EqualValues(h.t, 7, s, "%v", job.Props["ErrorDescription"])
	return job
}

func (h *hv) affected(job host.Object, class string) host.Object {
	h.t.Helper()
	all, err := h.conn.Associators(h.t.Context(), job.Path, "Msvm_AffectedJobElement", class)
	require.NoError(h.t, err)
	require.Len(h.t, all, 1)
	return all[0]
}

func (h *hv) snapshot(vm *hypervtest.VM, level int32) host.Object {
	h.t.Helper()
	job := h.do(h.service("Msvm_VirtualSystemSnapshotService"), "CreateSnapshot", host.Props{
		"AffectedSystem":   h.system(vm),
		"SnapshotSettings": h.text("Msvm_VirtualSystemSnapshotSettingData", host.Props{"ConsistencyLevel": level, "IgnoreNonSnapshottableDisks": true}),
		"SnapshotType":     uint16(32768)})
	return h.affected(job, "Msvm_VirtualSystemSettingData")
}

func (h *hv) convert(snapshot host.Object) host.Object {
	h.t.Helper()
	job := h.do(h.service("Msvm_VirtualSystemSnapshotService"), "ConvertToReferencePoint", host.Props{"AffectedSnapshot": snapshot.Path})
	return h.affected(job, "Msvm_VirtualSystemReferencePoint")
}

// files are the paths of a configuration's disks.
func (h *hv) files(settings host.Ref) []string {
	h.t.Helper()
	all, err := h.conn.Associators(h.t.Context(), settings, "Msvm_VirtualSystemSettingDataComponent", "Msvm_StorageAllocationSettingData")
	require.NoError(h.t, err)
	var out []string
	for _, o := range all {
		out = append(out, o.Props.Strings("HostResource")...)
	}
	return out
}

func (h *hv) changes(path, since string) (out []host.Range, err error) {
	d, err := h.disks.Open(h.t.Context(), path, false)
	require.NoError(h.t, err)
	defer func() { require.NoError(h.t, d.Close()) }()
	for r, err := range d.Changes(context.Background(), since) {
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
	return out, nil
}

const mib = 1 << 20

// One round of incremental capture, as the backend does it.
func TestChangesSinceAReferencePoint(t *testing.T) {
	h := open(t, hypervtest.Options{})
	vm, err := h.AddVM(hypervtest.VMSpec{Name: "web", Disks: []hypervtest.DiskSpec{{ID: "os", Size: 64 * mib}}})
	require.NoError(t, err)
	require.NoError(t, vm.Start())
	require.NoError(t, vm.Write("os", []byte("first"), 0))

	s1 := h.snapshot(vm, 2)
	require.Equal(t, 2, vm.ChainLength())
	require.NoError(t, vm.Write("os", []byte("second"), 5*mib))
	frozen := h.files(s1.Path)
	require.Len(t, frozen, 1)
	d, err := h.disks.Open(t.Context(), frozen[0], false)
	require.NoError(t, err)
	p := make([]byte, 6)
	_, err = d.ReadAt(p, 0)
	require.NoError(t, err)
	require.Equal(t, "first\x00", string(p))
	_, err = d.ReadAt(p, 5*mib)
	require.NoError(t, err)
	require.Equal(t, make([]byte, 6), p, "what is written later is not in the snapshot")

	info, err := h.disks.Stat(t.Context(), frozen[0])
	require.NoError(t, err)
	none, err := h.changes(frozen[0], info.Latest)
	require.NoError(t, err)
	require.Empty(t, none, "its own moment is its end")

	r1 := h.convert(s1)
	require.Equal(t, 2, vm.ChainLength(), "a merge waits for whoever reads")
	require.NoError(t, d.Close())
	h.Inventory()
	require.Equal(t, 1, vm.ChainLength())
	ids := r1.Props.Strings("ResilientChangeTrackingIdentifiers")
	require.Equal(t, []string{info.Latest}, ids)
	require.Regexp(t, `^rctX:[0-9a-f]{8}(:[0-9a-f]{4}){3}:[0-9a-f]{12}:[0-9a-f]{8}$`, ids[0])

	s2 := h.snapshot(vm, 1)
	require.NoError(t, vm.Write("os", []byte("third"), 9*mib))
	got, err := h.changes(h.files(s2.Path)[0], ids[0])
	require.NoError(t, err)
	require.Equal(t, []host.Range{{Off: 5 * mib, Len: 64 << 10}}, got)
	h.convert(s2)
	h.Inventory()
	require.Equal(t, 2, vm.ChainLength(), "an older reference point keeps files from being merged")
	h.do(h.service("Msvm_VirtualSystemReferencePointService"), "DestroyReferencePoint", host.Props{"AffectedReferencePoint": r1.Path})
	h.Inventory()
	require.Equal(t, 1, vm.ChainLength())
	require.NoError(t, vm.Read("os", p[:5], 9*mib))
	require.Equal(t, "third", string(p[:5]))

	s3 := h.snapshot(vm, 2)
	_, err = h.changes(h.files(s3.Path)[0], ids[0])
	require.ErrorIs(t, err, host.ErrTrackingLost, "its reference point is gone")
}
