package signature

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Signature is what was recognised. The zero value: nothing that is known.
type Signature struct {
	// Kind is what libblkid calls TYPE: "ext4", "xfs", "btrfs", "vfat", "swap",
	// "crypto_LUKS", "LVM2_member", "linux_raid_member", "zfs_member", ...
	Kind string
	// Use is what it is for.
	Use Use
	// Label and UUID as mount and fstab name it. Of a member the UUID is the
	// array's or the pool's; of LVM the physical volume's.
	Label, UUID string
	// Detail for people: "version 2", "level raid1, 2 disks", or "".
	Detail string
	// Devices that belong together, as the superblock says; 0: one, or unknown.
	Devices int
	// Hibernated: the swap holds the memory of a system that sleeps. Bytes of
	// mounted file systems may be in there.
	Hibernated bool
}

// Use is what a signature says that the bytes are for.
type Use string

// Uses.
const (
	FileSystem Use = "file system"
	Swap       Use = "swap"
	Encrypted  Use = "encrypted" // its content is ciphertext
	Member     Use = "member"    // of an array, a group or a pool
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// probe is one look at a device: what was read of it is kept.
type probe struct {
	r    io.ReaderAt
	size int64
	all  bool   // for All: nothing that can be read is spared, nor may be missing
	head []byte // the first headSize bytes
	err  error
}

// headSize holds the superblocks of nearly everything that begins at the
// beginning: btrfs' is the farthest, at 64 KiB.
const headSize = 0x11000

// Probe recognises what r holds, which has size bytes, and reads at most a few
// hundred KiB of it. That nothing is known is no error. Where several signatures
// are there, as on a mirror's member, the one counts that owns the device:
// members go before what they carry. Magics too short or too lonely to say so
// are passed over.
func Probe(r io.ReaderAt, size int64) (own Signature, err error) {
	p := &probe{r: r, size: size}
	p.look(func(s Signature, v verdict) bool {
		if v == owner {
			own = s
		}
		return v != owner
	})
	if p.err != nil {
		return Signature{}, p.err
	}
	return own, nil
}

// All tells every signature that r carries, one of each kind and UUID, as wipefs
// would find them: also what is only a trace of something, as the copy of a lost
// header. It reads more than [Probe], below 1 MiB, and a device that ends before
// size is an error.
func All(r io.ReaderAt, size int64) (list []Signature, err error) {
	p := &probe{r: r, size: size, all: true}
	p.look(func(s Signature, _ verdict) bool {
		if !slices.ContainsFunc(list, func(o Signature) bool { return o.Kind == s.Kind && o.UUID == s.UUID }) {
			list = append(list, s)
		}
		return true
	})
	if p.err != nil {
		return nil, p.err
	}
	return list, nil
}

func (p *probe) look(yield func(Signature, verdict) bool) {
	if p.size <= 0 {
		return
	}
	if p.head = p.at(0, int(min(p.size, headSize))); p.err == nil {
		p.each(yield)
	}
}

// at reads n bytes; nil if they aren't all there. The first failure of the
// device is kept.
func (p *probe) at(off int64, n int) []byte {
	if p.err != nil || off < 0 || n <= 0 || off > p.size-int64(n) {
		return nil
	}
	if off+int64(n) <= int64(len(p.head)) {
		return p.head[off:][:n]
	}
	b := make([]byte, n)
	got, err := p.r.ReadAt(b, off)
	if got < n {
		if err == nil || errors.Is(err, io.EOF) {
			if err = io.ErrUnexpectedEOF; !p.all {
				return nil // smaller than it was said to be
			}
		}
		p.err = fmt.Errorf("%d bytes at %d: %w", n, off, err)
		return nil
	}
	return b
}

// is compares the bytes at an offset with a magic.
func (p *probe) is(off int64, magic string) bool { return string(p.at(off, len(magic))) == magic }

// text is a string of fixed length, which ends at a zero.
func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.TrimRight(s, " ")
}

// printable makes a label one line that a terminal can show.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// uuid writes 16 bytes in their order; "" if all are zero.
func uuid(b []byte) string {
	if len(b) < 16 || string(b[:16]) == string(make([]byte, 16)) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
