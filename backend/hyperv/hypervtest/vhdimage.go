package hypervtest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

const pageSize = 64 << 10

// memoryImage is the content of a VHD, which is in memory; its file is empty.
type memoryImage struct {
	size   int64
	sector uint32
	id     string
	parent *memoryImage
	pages  map[int64][]byte
}

func createVHD(local string, spec imageSpec) (image, error) {
	f, err := os.OpenFile(local, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	p := &memoryImage{size: spec.size, sector: spec.sector, id: strings.ToLower(newGUID()), pages: map[int64][]byte{}}
	if spec.parent != nil {
		q := spec.parent.(*memoryImage)
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

func (p *memoryImage) page(i int64) []byte {
	for q := p; q != nil; q = q.parent {
		if b := q.pages[i]; b != nil {
			return b
		}
	}
	return nil
}

func (p *memoryImage) ReadAt(b []byte, off int64) (int, error) {
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

func (p *memoryImage) WriteAt(b []byte, off int64) (int, error) {
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

func (p *memoryImage) Flush() error          { return nil }
func (p *memoryImage) Size() int64           { return p.size }
func (p *memoryImage) ID() string            { return p.id }
func (p *memoryImage) LogicalSector() uint32 { return p.sector }
func (p *memoryImage) Close() error          { return nil }
func (p *memoryImage) Allocation() int64     { return int64(len(p.pages)) * pageSize }

func (p *memoryImage) Grow(size int64) error {
	if size < p.size || size%int64(p.sector) != 0 {
		return fmt.Errorf("%d bytes", size)
	}
	p.size = size
	return nil
}

func (p *memoryImage) Merge() error {
	for i, b := range p.pages {
		p.parent.pages[i] = b
	}
	p.parent.size = p.size
	return nil
}

func (p *memoryImage) Allocated() ([]host.Range, error) {
	var all blockSet
	for q := p; q != nil; q = q.parent {
		for i := range q.pages {
			all = all.add(i, i+1)
		}
	}
	return all.ranges(pageSize, p.size), nil
}
