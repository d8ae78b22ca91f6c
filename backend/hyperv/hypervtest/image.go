package hypervtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

// imageSpec is what an image is made of; a parent gives size and sectors.
type imageSpec struct {
	size       int64
	sector     uint32
	vhd, fixed bool
	parent     image
	parentPath string
	id         string // VirtualDiskId; empty: another one
}

const pageSize = 64 << 10

// plain is an image in memory.
type plain struct {
	size   int64
	sector uint32
	id     string
	parent *plain
	pages  map[int64][]byte
}

func createImage(local string, spec imageSpec) (image, error) {
	f, err := os.OpenFile(local, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	p := &plain{size: spec.size, sector: spec.sector, id: strings.ToLower(newGUID()), pages: map[int64][]byte{}}
	if spec.parent != nil {
		q := spec.parent.(*plain)
		p.parent, p.size, p.sector, p.id = q, q.size, q.sector, q.id
	}
	if spec.id != "" {
		p.id = spec.id
	}
	if p.sector == 0 {
		p.sector = 512
	}
	if p.size <= 0 || p.size%int64(p.sector) != 0 {
		return nil, errors.Join(fmt.Errorf("a disk of %d bytes", p.size), os.Remove(local))
	}
	return p, nil
}

func openImage(string) (image, error) { return nil, errors.New("not a disk") }

func (p *plain) page(i int64) []byte {
	for q := p; q != nil; q = q.parent {
		if b := q.pages[i]; b != nil {
			return b
		}
	}
	return nil
}

func (p *plain) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) && off < p.size {
		at := off % pageSize
		m := int(min(int64(len(b)-n), pageSize-at, p.size-off))
		if pg := p.page(off / pageSize); pg != nil {
			copy(b[n:n+m], pg[at:])
		} else {
			clear(b[n : n+m])
		}
		n, off = n+m, off+int64(m)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (p *plain) WriteAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		i, at := off/pageSize, off%pageSize
		m := int(min(int64(len(b)-n), pageSize-at))
		pg := p.pages[i]
		if pg == nil {
			pg = make([]byte, pageSize)
			copy(pg, p.page(i))
			p.pages[i] = pg
		}
		copy(pg[at:], b[n:n+m])
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

func (p *plain) Flush() error          { return nil }
func (p *plain) Size() int64           { return p.size }
func (p *plain) ID() string            { return p.id }
func (p *plain) LogicalSector() uint32 { return p.sector }
func (p *plain) Close() error          { return nil }
func (p *plain) Allocation() int64     { return int64(len(p.pages)) * pageSize }

func (p *plain) Grow(size int64) error {
	if size < p.size || size%int64(p.sector) != 0 {
		return fmt.Errorf("%d bytes", size)
	}
	p.size = size
	return nil
}

func (p *plain) Merge() error {
	for i, b := range p.pages {
		p.parent.pages[i] = b
	}
	p.parent.size = p.size
	return nil
}

func (p *plain) Allocated() ([]host.Range, error) {
	var all blockSet
	for q := p; q != nil; q = q.parent {
		for i := range q.pages {
			all = all.add(i, i+1)
		}
	}
	var out []host.Range
	for _, s := range all {
		out = append(out, host.Range{Off: s.from * pageSize, Len: min(s.to*pageSize, p.size) - s.from*pageSize})
	}
	return slices.Clip(out), nil
}
