package vmwaretest

import (
	"crypto/rand"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vmdk"
)

// vmdkFile is one link of a disk's chain: the base, or the delta that a
// snapshot began. content is what a reader of this link sees, parents included.
type vmdkFile struct {
	name    string // "[datastore] folder/name.vmdk"
	parent  *vmdkFile
	content *content
	track   *tracker // shared by all links of a chain
	writing bool     // it is served to somebody who may write
}

// tracker is the changed-block tracking of one disk. seq counts snapshots and
// never goes back, so that marks of a lost epoch stay older than the present.
type tracker struct {
	seq    int64
	epoch  string // "" while tracking is not active
	broken int64  // the bug of extension: areas from here on are not reported; 0 is none
	blind  int64  // the bug of enabling under snapshots: what is older than this sequence is not reported
}

func (t *tracker) changeID() string {
	if t.epoch == "" {
		return ""
	}
	return t.epoch + "/" + strconv.FormatInt(t.seq, 10)
}

// begin starts a new epoch: changeIds of the former are refused from now on.
func (t *tracker) begin() {
	var id [16]byte
	rand.Read(id[:])
	t.epoch = vmwareUUID(id)
	t.seq++
	t.broken, t.blind = 0, 0
}

func (t *tracker) end() { t.epoch, t.broken, t.blind = "", 0, 0 }

// vmwareUUID writes a UUID as vSphere does in changeIds and BIOS settings.
func vmwareUUID(id [16]byte) string {
	return fmt.Sprintf("% x-% x", id[:8], id[8:])
}

// file finds a link by its datastore path. A file that exists on the datastore
// and wasn't used before starts as zeros of the given size. s.mu is held.
func (s *Simulator) file(name string, size int64) *vmdkFile {
	name = canonical(name)
	f := s.files[name]
	if f == nil {
		f = &vmdkFile{name: name, content: newContent(size), track: &tracker{seq: 1}}
		s.files[name] = f
	}
	return f
}

func canonical(name string) string {
	var p object.DatastorePath
	if !p.FromString(name) {
		return name
	}
	p.Path = strings.TrimPrefix(path.Clean("/"+p.Path), "/")
	return p.String()
}

// flatOf turns the descriptor's name into the name of the extent that holds
// its bytes; ofFlat goes back.
func flatOf(name string) string { return strings.TrimSuffix(name, ".vmdk") + "-flat.vmdk" }

func ofFlat(name string) (string, bool) {
	base, ok := strings.CutSuffix(name, "-flat.vmdk")
	return base + ".vmdk", ok
}

// hostPath is where vcsim keeps a datastore file.
func (s *Simulator) hostPath(name string) (string, error) {
	var p object.DatastorePath
	if !p.FromString(name) {
		return "", fmt.Errorf("%q is not a datastore path", name)
	}
	if ds := s.datastore(p.Datastore); ds != nil {
		return filepath.Join(ds.Summary.Url, filepath.FromSlash(path.Clean("/"+p.Path))), nil
	}
	return "", fmt.Errorf("no datastore %q", p.Datastore)
}

// writeDescriptor makes the small file that names the extent, which is what
// vcsim looks for when a disk is attached.
func (s *Simulator) writeDescriptor(name string, size int64) error {
	file, err := s.hostPath(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	extent := vmdk.Extent{Size: size / vmdk.SectorSize, Info: path.Base(flatOf(name))}
	if err := vmdk.NewDescriptor(extent).Write(out); err != nil {
		return err
	}
	flat, err := os.Create(flatOf(file))
	if err != nil {
		return err
	}
	return flat.Close()
}

func (s *Simulator) removeDescriptor(name string) {
	if file, err := s.hostPath(name); err == nil {
		os.Remove(file)
		os.Remove(flatOf(file))
	}
}

// delta names the next free link of base's chain, as vSphere numbers them.
// s.mu is held.
func (s *Simulator) delta(f *vmdkFile) string {
	for f.parent != nil {
		f = f.parent
	}
	stem := strings.TrimSuffix(f.name, ".vmdk")
	for i := 1; ; i++ {
		name := fmt.Sprintf("%s-%06d.vmdk", stem, i)
		if s.files[name] == nil {
			return name
		}
	}
}

// disksOf lists the disks of a device list that are backed by a file.
func disksOf(devices []types.BaseVirtualDevice) []*types.VirtualDisk {
	var disks []*types.VirtualDisk
	for _, d := range devices {
		if disk, ok := d.(*types.VirtualDisk); ok && fileName(disk) != "" {
			disks = append(disks, disk)
		}
	}
	return disks
}

func fileName(d *types.VirtualDisk) string {
	if b, ok := d.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		return b.GetVirtualDeviceFileBackingInfo().FileName
	}
	return ""
}

// cloneDisks copies a device list so that its disks can be changed: readers of
// the old list, such as a response being encoded, keep what they had.
func cloneDisks(devices []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	copied := make([]types.BaseVirtualDevice, len(devices))
	for i, d := range devices {
		copied[i] = d
		disk, ok := d.(*types.VirtualDisk)
		if !ok {
			continue
		}
		twin := *disk
		if b, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
			backing := *b
			twin.Backing = &backing
		}
		copied[i] = &twin
	}
	return copied
}
