package bpftrack

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// kernel is the [system] of Linux.
type kernel struct {
	o   Options
	l   layout
	err error // why nothing can be tracked
	// alter lets tests break a program; nil: it runs as it is.
	alter func(at, *watch) (skip bool)
}

func openSystem(o Options) (system, error) {
	k := &kernel{o: o}
	if k.l, k.err = kernelLayout(); k.err != nil {
		k.err = fmt.Errorf("%w: %w", errKernel, k.err)
	}
	if o.State != "" {
		if err := os.MkdirAll(o.State, 0o700); err != nil {
			return nil, err
		}
		if err := onFileSystem(o.State, unix.TMPFS_MAGIC, unix.RAMFS_MAGIC); err != nil {
			return nil, fmt.Errorf("%w: the state has to be on a tmpfs: %w", dr.ErrInvalid, err)
		}
		above := filepath.Dir(filepath.Clean(o.Pins))
		if err := onFileSystem(above, unix.BPF_FS_MAGIC); err != nil {
			return nil, fmt.Errorf("%w: pins have to be on a BPF file system (mount -t bpf bpf /sys/fs/bpf): %w", dr.ErrInvalid, err)
		}
		if err := os.Mkdir(o.Pins, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
	}
	// Before Linux 5.11 maps counted as locked memory. That it fails shows in
	// making the map, if it matters.
	_ = rlimit.RemoveMemlock()
	return k, nil
}

var errKernel = errors.New("the kernel lacks what tracking needs")

func remedy(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "Give the process CAP_BPF and CAP_PERFMON (systemd: AmbientCapabilities=), and CAP_SYS_ADMIN where bpf is locked down; or run it as root."
	case errors.Is(err, errKernel), errors.Is(err, btf.ErrNotSupported), errors.Is(err, ebpf.ErrNotSupported):
		return "Run Linux 5.17 or newer with CONFIG_DEBUG_INFO_BTF, as distributions build it."
	case errors.Is(err, errMemory):
		return "Raise Options.Memory, or the block size."
	case errors.Is(err, errKind):
		return "Protect the whole disks below this device instead, or leave it to comparing."
	case errors.Is(err, errBeside):
		return "Leave it to comparing, or name the loop device that all writes go through, if there is one."
	case errors.Is(err, errNoDevice), errors.Is(err, os.ErrNotExist):
		return "Name a block device, best by /dev/disk/by-id."
	}
	return ""
}

func onFileSystem(path string, magics ...int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if !slices.Contains(magics, int64(fs.Type)) {
		return fmt.Errorf("%s is on a file system of type %#x", path, fs.Type)
	}
	return nil
}

func lockState(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = dr.ErrBusy
		}
		return nil, fmt.Errorf("another process tracks with the state in %s: %w", dir, err)
	}
	return f, nil
}

// bpf is what a tap holds of the kernel.
type bpf struct {
	m        *ebpf.Map
	programs [2]*ebpf.Program
	links    [2]link.Link
	mem      []byte
	pins     []string
}

// Files of pins are named after the tap, with these behind a dot.
var pinned = [2]string{"queue", "complete"}

func (s *kernel) attach(d device, name string) (_ *tap, err error) {
	if s.err != nil {
		return nil, s.err
	}
	blocks := (d.size + s.o.BlockSize - 1) / s.o.BlockSize
	n := (blocks + 63) / 64
	if n+headerWords >= 1<<28 { // 2 GiB of bitmap
		return nil, fmt.Errorf("%w: a bitmap of %d bits", errMemory, blocks)
	}
	b := &bpf{}
	defer func() {
		if err != nil {
			b.close(true)
		}
	}()
	if b.m, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "lifeboat_dirty", Type: ebpf.Array, KeySize: 4, ValueSize: 8,
		MaxEntries: uint32(max(n, 1) + headerWords), Flags: unix.BPF_F_MMAPABLE,
	}); err != nil {
		return nil, fmt.Errorf("making the bitmap: %w", err)
	}
	w := watch{
		major: d.Major, minor: d.Minor, start: d.Start, len: d.Len,
		shift: uint8(bits.TrailingZeros64(uint64(s.o.BlockSize)) - 9),
		words: uint32(max(n, 1)), passthrough: s.o.TrustPassthrough,
	}
	for i, a := range []at{atQueue, atComplete} {
		w := w
		skip := s.alter != nil && s.alter(a, &w)
		if b.programs[i], err = ebpf.NewProgram(program(a, s.l, w, b.m)); err != nil {
			return nil, fmt.Errorf("loading the program for %s: %w", a, err)
		}
		if skip {
			continue
		}
		if b.links[i], err = link.AttachTracing(link.TracingOptions{Program: b.programs[i]}); err != nil {
			return nil, fmt.Errorf("attaching to %s: %w", a, err)
		}
	}
	t := &tap{device: d, name: name, kernel: b}
	if name != "" {
		if err := b.pin(filepath.Join(s.o.Pins, name)); err != nil {
			return nil, fmt.Errorf("pinning: %w", err)
		}
		if t.ids, err = b.ids(); err != nil {
			return nil, err
		}
	}
	if t.words, err = b.mmap(); err != nil {
		return nil, err
	}
	return t, nil
}

func (s *kernel) pinned(_ device, k kept) (_ *tap, err error) {
	b := &bpf{}
	defer func() {
		if err != nil {
			b.close(false) // sweep removes the pins
		}
	}()
	base := filepath.Join(s.o.Pins, k.Name)
	if b.m, err = ebpf.LoadPinnedMap(base+"_map", nil); err != nil {
		return nil, fmt.Errorf("its bitmap: %w", err)
	}
	for i, suffix := range pinned {
		if b.programs[i], err = ebpf.LoadPinnedProgram(base+"_"+suffix, nil); err != nil {
			return nil, fmt.Errorf("its program: %w", err)
		}
		if b.links[i], err = link.LoadPinnedLink(base+"_"+suffix+"_link", nil); err != nil {
			return nil, fmt.Errorf("its link: %w", err)
		}
	}
	b.pins = pinFiles(base)
	got, err := b.ids()
	if err != nil {
		return nil, err
	}
	if got != k.IDs || int(b.m.MaxEntries()) != k.Words || b.m.ValueSize() != 8 {
		return nil, errors.New("what is pinned isn't what was left")
	}
	t := &tap{device: k.Device, name: k.Name, ids: got, kernel: b}
	if t.words, err = b.mmap(); err != nil {
		return nil, err
	}
	return t, nil
}

// sweep removes pins of taps that nobody has. The folder is the tracker's own.
func (s *kernel) sweep(names []string) error {
	files, err := os.ReadDir(s.o.Pins)
	if err != nil {
		return err
	}
	for _, f := range files {
		name, _, _ := strings.Cut(f.Name(), "_")
		if !slices.Contains(names, name) {
			err = errors.Join(err, os.Remove(filepath.Join(s.o.Pins, f.Name())))
		}
	}
	return err
}

// pinFiles are the pins of a tap: names in a BPF file system have no dots.
func pinFiles(base string) []string {
	files := []string{base + "_map"}
	for _, suffix := range pinned {
		files = append(files, base+"_"+suffix, base+"_"+suffix+"_link")
	}
	return files
}

func (b *bpf) pin(base string) error {
	b.pins = pinFiles(base)
	if err := b.m.Pin(b.pins[0]); err != nil {
		return err
	}
	for i := range b.programs {
		if err := b.programs[i].Pin(b.pins[1+2*i]); err != nil {
			return err
		}
		if err := b.links[i].Pin(b.pins[2+2*i]); err != nil {
			return err
		}
	}
	return nil
}

// ids also checks that each link runs its program.
func (b *bpf) ids() (ids ids, err error) {
	info, err := b.m.Info()
	if err != nil {
		return ids, err
	}
	id, ok := info.ID()
	if !ok {
		return ids, errors.New("the kernel numbers no maps")
	}
	ids.Map = uint32(id)
	for i := range b.programs {
		pi, err := b.programs[i].Info()
		if err != nil {
			return ids, err
		}
		li, err := b.links[i].Info()
		if err != nil {
			return ids, err
		}
		id, ok := pi.ID()
		if !ok || id != li.Program {
			return ids, errors.New("a link runs another program")
		}
		ids.Programs[i], ids.Links[i] = uint32(id), uint32(li.ID)
	}
	return ids, nil
}

func (b *bpf) mmap() (words, error) {
	n := int(b.m.MaxEntries())
	mem, err := unix.Mmap(b.m.FD(), 0, n*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the bitmap: %w", err)
	}
	b.mem = mem
	return unsafe.Slice((*uint64)(unsafe.Pointer(&mem[0])), n), nil
}

func (b *bpf) skipped() (uint64, uint64, error) {
	var n [2]uint64
	for i, p := range b.programs {
		stats, err := p.Stats()
		if err != nil {
			return 0, 0, fmt.Errorf("asking the kernel how often it skipped a program: %w", err)
		}
		n[i] = stats.RecursionMisses
	}
	return n[0], n[1], nil
}

func (b *bpf) close(unpin bool) {
	if unpin {
		for _, pin := range b.pins {
			_ = os.Remove(pin) // what stays is swept by the next Open
		}
	}
	for i := range b.programs {
		if b.links[i] != nil {
			b.links[i].Close()
		}
		if b.programs[i] != nil {
			b.programs[i].Close()
		}
	}
	if b.mem != nil {
		_ = unix.Munmap(b.mem)
		b.mem = nil
	}
	if b.m != nil {
		b.m.Close()
	}
}
