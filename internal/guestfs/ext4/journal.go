package ext4

import (
	"encoding/binary"

	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

var magic = [4]byte{0xc0, 0x3b, 0x39, 0x98}

// Features of the journal.
const (
	journal64     = 0x2
	journalCsum2  = 0x8
	journalCsum3  = 0x10
	journalFast   = 0x20
	journalKnown  = 0x1 | journal64 | 0x4 | journalCsum2 | journalCsum3 | journalFast
	maxJournal    = 1 << 22 // blocks
	descriptorTag = 1
	commitTag     = 2
	revokeTag     = 5
)

// journal is the log while it is read.
type journal struct {
	n           *node
	first, last uint32 // the blocks that the log goes round
	features    uint32
	revoked     map[uint64]uint32 // block: the last transaction that took it back
	found       []logged
}

// logged is a block that a transaction wrote.
type logged struct {
	block, copy uint64
	sequence    uint32
	escaped     bool
}

// replay finds out which blocks the journal has newer versions of, as
// fs/jbd2/recovery.c does: every transaction with a commit block counts.
// Checksums are not looked at: a frozen moment keeps the order of writes.
func (f *FS) replay() error {
	if f.incompat&featJournalDev != 0 || f.journal == 0 {
		return guestfs.Unsupported("the journal is on another device")
	}
	n, err := f.inode(uint64(f.journal))
	if err != nil {
		return err
	}
	s := make([]byte, 1024)
	if _, err := n.ReadAt(s, 0); err != nil {
		return err
	}
	be := binary.BigEndian
	if [4]byte(s[:4]) != magic || int64(be.Uint32(s[12:])) != f.block {
		return guestfs.Corrupt("no journal in inode %d", f.journal)
	}
	j := &journal{n: n, last: be.Uint32(s[16:]), first: be.Uint32(s[20:]), features: be.Uint32(s[40:]), revoked: map[uint64]uint32{}}
	if be.Uint32(s[4:]) == 3 { // the first version has no features
		j.features = 0
	}
	if u := j.features &^ journalKnown; u != 0 {
		return guestfs.Unsupported("features %#x", u)
	}
	if j.features&journalFast != 0 {
		fast := be.Uint32(s[84:])
		if fast == 0 {
			fast = 256
		}
		if fast >= j.last {
			return guestfs.Corrupt("%d of %d blocks for fast commits", fast, j.last)
		}
		j.last -= fast
		f.Note = "fast commits of the journal are not read: the last seconds may be missing"
	}
	sequence, start := be.Uint32(s[24:]), be.Uint32(s[28:])
	if start == 0 {
		return nil // nothing to play back
	}
	if j.first == 0 || j.first >= j.last || start < j.first || start >= j.last || j.last > maxJournal || int64(j.last)*f.block > n.info.Size {
		return guestfs.Corrupt("log from %d within %d to %d", start, j.first, j.last)
	}
	if err := j.scan(start, sequence); err != nil {
		return err
	}
	replaced, unescape := map[uint64]uint64{}, map[uint64]bool{}
	for _, l := range j.found {
		if r, ok := j.revoked[l.block]; ok && int32(r-l.sequence) >= 0 {
			continue
		}
		replaced[l.block], unescape[l.block] = l.copy, l.escaped
	}
	f.replaced, f.unescape = replaced, unescape
	return nil
}

// scan goes through the log until a block doesn't belong to the transaction
// that is due. What a transaction without a commit block did is forgotten.
func (j *journal) scan(at, sequence uint32) error {
	be := binary.BigEndian
	b := make([]byte, j.n.f.block)
	step := func(n uint32) {
		if at += n; at >= j.last {
			at = at - j.last + j.first
		}
	}
	var wrote []logged
	var took []uint64
	for left := int64(j.last - j.first); left > 0; left-- {
		if _, err := j.n.ReadAt(b, int64(at)*j.n.f.block); err != nil {
			return err
		}
		if [4]byte(b[:4]) != magic || be.Uint32(b[8:]) != sequence {
			return nil
		}
		step(1)
		switch be.Uint32(b[4:]) {
		case descriptorTag:
			tags := j.tags(b)
			if left -= int64(len(tags)); left <= 0 {
				return nil // longer than the log: not written by a kernel
			}
			for _, t := range tags {
				e, err := j.n.run(uint64(at))
				if err != nil {
					return err
				}
				if e.hole {
					return guestfs.Corrupt("a journal with a hole")
				}
				t.copy, t.sequence = e.physical+uint64(at)-e.logical, sequence
				wrote = append(wrote, t)
				step(1)
			}
		case revokeTag:
			took = append(took, j.revokes(b)...)
		case commitTag:
			j.found = append(j.found, wrote...)
			for _, r := range took {
				j.revoked[r] = sequence
			}
			wrote, took = wrote[:0], took[:0]
			sequence++
		default:
			return nil
		}
	}
	return nil
}

// tags are the blocks that a descriptor says follow it.
func (j *journal) tags(b []byte) []logged {
	be := binary.BigEndian
	size, tail := 8, 0
	switch {
	case j.features&journalCsum3 != 0:
		size, tail = 16, 4
	case j.features&journalCsum2 != 0:
		size, tail = 10, 4
	}
	if j.features&(journal64|journalCsum3) == journal64 {
		size += 4
	}
	var tags []logged
	for p := b[12 : len(b)-tail]; len(p) >= size; {
		t := logged{block: uint64(be.Uint32(p))}
		flags := uint32(be.Uint16(p[6:]))
		if j.features&journalCsum3 != 0 {
			flags = be.Uint32(p[4:])
		}
		if j.features&journal64 != 0 {
			t.block |= uint64(be.Uint32(p[8:])) << 32
		}
		t.escaped = flags&1 != 0
		tags = append(tags, t)
		p = p[size:]
		if flags&2 == 0 { // its own UUID follows
			if len(p) < 16 {
				break
			}
			p = p[16:]
		}
		if flags&8 != 0 {
			break
		}
	}
	return tags
}

// revokes are the blocks whose earlier versions must not be played back.
func (j *journal) revokes(b []byte) []uint64 {
	be := binary.BigEndian
	end := min(int(be.Uint32(b[12:])&0xffffff), len(b))
	var list []uint64
	for i := 16; i < end; {
		if j.features&journal64 != 0 {
			if i+8 > end {
				break
			}
			list = append(list, be.Uint64(b[i:]))
			i += 8
			continue
		}
		if i+4 > end {
			break
		}
		list = append(list, uint64(be.Uint32(b[i:])))
		i += 4
	}
	return list
}
