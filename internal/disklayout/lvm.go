package disklayout

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

var errNoLabel = errors.New("no label")

// maxMetadata is the size in bytes up to which a group's description is read.
const maxMetadata = 4 << 20

// physical is a volume that belongs to a group.
type physical struct {
	id   string // without dashes
	vol  Volume
	meta description
	err  error
}

// description is what is said of a group.
type description struct {
	name string
	body *config
}

// openPhysical reads the label and the description on a physical volume.
func openPhysical(v Volume) (physical, error) {
	if v.Size < 4*512 {
		return physical{}, errNoLabel
	}
	b, err := read(v, 0, 4*512)
	if err != nil {
		return physical{}, err
	}
	at := -1
	for i := 0; i < len(b); i += 512 {
		if string(b[i:i+8]) == "LABELONE" && string(b[i+24:i+32]) == "LVM2 001" {
			at = i
			break
		}
	}
	if at < 0 {
		return physical{}, errNoLabel
	}
	h := at + int(min(le.Uint32(b[at+20:]), 512))
	if h+40 > len(b) {
		return physical{}, corrupt("label with its header at %d", h)
	}
	p := physical{id: string(b[h : h+32]), vol: v}
	b = b[h+40:]
	area := func() (off, size uint64, ok bool) {
		if len(b) < 16 {
			return 0, 0, false
		}
		off, size = le.Uint64(b), le.Uint64(b[8:])
		b = b[16:]
		return off, size, off != 0
	}
	for _, _, ok := area(); ok; _, _, ok = area() { // data
	}
	for {
		off, size, ok := area()
		if !ok {
			break
		}
		text, err := metadata(v, off, size)
		if err == nil && len(text) > 0 {
			if p.meta.name, p.meta.body, err = group(text); err == nil {
				return p, nil
			}
		}
		p.err = err
	}
	return p, nil // others of the group may describe it
}

// metadata reads the current description from an area, which is written
// round and round.
func metadata(v Volume, off, size uint64) (string, error) {
	if off > uint64(v.Size) || size > uint64(v.Size)-off || size < 1024 {
		return "", corrupt("description of %d bytes at %d", size, off)
	}
	h, err := read(v, int64(off), 512)
	if err != nil {
		return "", err
	}
	if string(h[4:20]) != " LVM2 x[5A%r0N*>" {
		return "", corrupt("no description at %d", off)
	}
	from, n := le.Uint64(h[40:]), le.Uint64(h[48:])
	if from == 0 || n == 0 {
		return "", nil
	}
	if from < 512 || from >= size || n > size-512 || n > maxMetadata {
		return "", corrupt("description of %d bytes at %d of %d", n, from, size)
	}
	first := min(n, size-from)
	text, err := read(v, int64(off+from), int(first))
	if err == nil && first < n {
		var rest []byte
		rest, err = read(v, int64(off+512), int(n-first))
		text = append(text, rest...)
	}
	return strings.TrimRight(string(text), "\x00"), err
}

// group finds a volume group in its description.
func group(text string) (string, *config, error) {
	c, err := parse(text)
	if err != nil {
		return "", nil, err
	}
	for name, s := range c.sections {
		if s.sections["physical_volumes"] != nil {
			return name, s, nil
		}
	}
	return "", nil, corrupt("no volume group in its description")
}

// logical puts the logical volumes of all groups together.
func logical(pvs []physical) (list []Volume, errs []error) {
	newest := map[string]description{}
	var ids []string
	for _, p := range pvs {
		if p.meta.body == nil {
			if p.err != nil {
				errs = append(errs, fmt.Errorf("LVM: disk %s, %s: %w", p.vol.Disk, p.vol.Name, p.err))
			}
			continue
		}
		id := p.meta.body.text("id")
		old, ok := newest[id]
		if !ok {
			ids = append(ids, id)
		}
		if !ok || p.meta.body.number("seqno") > old.body.number("seqno") {
			newest[id] = p.meta
		}
	}
	for _, id := range ids {
		vg := newest[id]
		lvs := vg.body.sections["logical_volumes"]
		if lvs == nil {
			continue
		}
		for _, name := range lvs.names() {
			lv := lvs.sections[name]
			if !slices.Contains(lv.lists["status"], "VISIBLE") {
				continue
			}
			escape := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
			v := Volume{Name: vg.name + "/" + name, Device: "/dev/mapper/" + escape(vg.name) + "-" + escape(name)}
			r, err := lvReader(vg.body, lv, pvs)
			if err != nil {
				v.Err = fmt.Errorf("LVM volume %s: %w", v.Name, err)
			} else {
				v.ReaderAt, v.Size = r, r.size
				v.Disk = r.disk
			}
			list = append(list, v)
		}
	}
	return list, errs
}

// segment is a stretch of a logical volume, striped over one or more places.
type segment struct {
	from, size, stripe int64 // bytes; stripe is what lies in one place before the next
	on                 []Volume
	at                 []int64
}

type lv struct {
	size     int64
	disk     string
	segments []segment
}

func lvReader(vg, c *config, pvs []physical) (*lv, error) {
	extent := vg.number("extent_size")
	if extent <= 0 || extent > 1<<31 {
		return nil, corrupt("extents of %d sectors", extent)
	}
	extent *= 512
	byName := map[string]physical{}
	starts := map[string]int64{}
	if all := vg.sections["physical_volumes"]; all != nil {
		for _, name := range all.names() {
			s := all.sections[name]
			id := strings.ReplaceAll(s.text("id"), "-", "")
			i := slices.IndexFunc(pvs, func(p physical) bool { return p.id == id })
			if i >= 0 {
				byName[name], starts[name] = pvs[i], s.number("pe_start")
			}
		}
	}
	r := &lv{}
	const most = 1 << 40 // extents, or sectors: far beyond what LVM can
	for n := int64(1); n <= c.number("segment_count"); n++ {
		s := c.sections[fmt.Sprintf("segment%d", n)]
		if s == nil {
			return nil, corrupt("segment %d is missing", n)
		}
		if kind := s.text("type"); kind != "striped" {
			return nil, fmt.Errorf("%w: segments of type %q", dr.ErrUnsupported, kind)
		}
		first, count, stripes := s.number("start_extent"), s.number("extent_count"), s.number("stripe_count")
		where := s.lists["stripes"]
		if count <= 0 || count > most/extent*512 || first < 0 || first*extent != r.size || stripes < 1 || stripes > 128 || int64(len(where)) != 2*stripes || count%stripes != 0 {
			return nil, corrupt("segment %d: %d extents from %d on over %d places", n, count, first, stripes)
		}
		g := segment{from: r.size, size: count * extent, stripe: s.number("stripe_size") * 512}
		if stripes == 1 {
			g.stripe = g.size
		}
		if g.stripe <= 0 || extent%512 != 0 {
			return nil, corrupt("segment %d: stripes of %d bytes", n, g.stripe)
		}
		for i := 0; i < len(where); i += 2 {
			p, ok := byName[where[i]]
			if !ok {
				return nil, fmt.Errorf("physical volume %s is on none of the disks", where[i])
			}
			e, start := integer(where[i+1]), starts[where[i]]
			if e < 0 || e > most/extent*512 || start < 0 || start > most {
				return nil, corrupt("segment %d begins at extent %d behind %d", n, e, start)
			}
			at := start*512 + e*extent
			if at > p.vol.Size || g.size/stripes > p.vol.Size-at {
				return nil, corrupt("segment %d reaches beyond its disk", n)
			}
			g.on, g.at = append(g.on, p.vol), append(g.at, at)
			if len(r.segments) == 0 && i == 0 {
				r.disk = p.vol.Disk
			} else if r.disk != p.vol.Disk {
				r.disk = ""
			}
		}
		r.segments = append(r.segments, g)
		r.size += g.size
	}
	if r.size == 0 {
		return nil, corrupt("no segments")
	}
	return r, nil
}

// ReadAt reads as io.ReaderAt does.
func (r *lv) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= r.size {
		return 0, io.EOF
	}
	want := len(p)
	p = p[:min(int64(len(p)), r.size-off)]
	done := 0
	for done < len(p) {
		at := off + int64(done)
		i, _ := slices.BinarySearchFunc(r.segments, at, func(s segment, at int64) int {
			switch {
			case at < s.from:
				return 1
			case at >= s.from+s.size:
				return -1
			}
			return 0
		})
		s := r.segments[i]
		in := at - s.from
		chunk, rest := in/s.stripe, in%s.stripe
		k := chunk % int64(len(s.on))
		n := int(min(int64(len(p)-done), s.stripe-rest, s.size-in))
		got, err := s.on[k].ReadAt(p[done:done+n], s.at[k]+chunk/int64(len(s.on))*s.stripe+rest)
		done += got
		if got < n {
			return done, err
		}
	}
	if done < want {
		return done, io.EOF
	}
	return done, nil
}
