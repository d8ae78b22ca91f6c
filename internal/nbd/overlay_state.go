package nbd

import (
	"fmt"
	"io"
	"sync"
)

// blockState is where a block's bytes come from, in two bits.
type blockState byte

const (
	stateBase   blockState = 0
	stateData   blockState = 1 // from the file, at the same offset
	stateZeroed blockState = 2
	stateBad    blockState = 3 // never written
)

const (
	statePageSize  = 4 << 10
	blocksPerPage  = statePageSize * 4
	statePageBytes = blocksPerPage * overlayBlock // of disk: 64 MiB
)

// statePage holds the states of blocksPerPage blocks, four a byte, the first in
// the low bits: the bytes of the file. A page overwritten in place may be torn
// by a crash; each block's two bits lie in one byte, so every block then has
// its old state or its new one, and both are true: see Overlay.Flush.
type statePage struct {
	bits  [statePageSize]byte
	dirty bool
}

func (p *statePage) get(i int64) blockState { return blockState(p.bits[i/4] >> (i % 4 * 2) & 3) }

func (p *statePage) set(i int64, st blockState) {
	shift := i % 4 * 2
	p.bits[i/4] = p.bits[i/4]&^(3<<shift) | byte(st)<<shift
}

// parseStatePage checks a page of the file that has n blocks.
func parseStatePage(b *[statePageSize]byte, n int64) (*statePage, error) {
	p := &statePage{bits: *b}
	for i, x := range b {
		if x == 0 {
			continue
		}
		for j := range int64(4) {
			k := int64(i)*4 + j
			st := p.get(k)
			if st == stateBad {
				return nil, fmt.Errorf("%w: block %d of the page has an impossible state", ErrNotOverlay, k)
			}
			if st != stateBase && k >= n {
				return nil, fmt.Errorf("%w: block %d of the page lies beyond the end", ErrNotOverlay, k)
			}
		}
	}
	return p, nil
}

// untouched stands for every page that was read and holds nothing but the base.
var untouched = new(statePage)

// stateMap is every block's state. Pages are read when first needed; memory is
// 8 bytes for each 64 MiB of disk, and 4 KiB for each 64 MiB that has changes.
type stateMap struct {
	file   File
	size   int64
	blocks int64

	mu    *sync.RWMutex
	pages []*statePage // nil: not yet read
}

type dirtyPage struct {
	index int64
	bits  [statePageSize]byte
}

func newStateMap(f File, size int64) stateMap {
	blocks := roundUp(size, overlayBlock) / overlayBlock
	return stateMap{
		file: f, size: size, blocks: blocks,
		mu:    new(sync.RWMutex),
		pages: make([]*statePage, roundUp(blocks, blocksPerPage)/blocksPerPage),
	}
}

// offset is where the file keeps page i.
func (m *stateMap) offset(i int64) int64 {
	return headerOffset(m.size) + overlayHeaderSize + i*statePageSize
}

// page returns page i, read if need be. The caller holds mu; for reading only
// if the page is known to be there.
func (m *stateMap) page(i int64) (*statePage, error) {
	if p := m.pages[i]; p != nil {
		return p, nil
	}
	var b [statePageSize]byte
	n, err := m.file.ReadAt(b[:], m.offset(i))
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("nbd: overlay: reading the states of page %d: %w", i, err)
	}
	clear(b[n:]) // the file ends at the last page that was written
	p := untouched
	if b != untouched.bits {
		if p, err = parseStatePage(&b, min(blocksPerPage, m.blocks-i*blocksPerPage)); err != nil {
			return nil, fmt.Errorf("nbd: overlay: page %d of states: %w", i, err)
		}
	}
	m.pages[i] = p
	return p, nil
}

// run returns the state at off and for how many of the n bytes it holds.
func (m *stateMap) run(off, n int64) (blockState, int64, error) {
	m.mu.RLock()
	st, k, ok, err := m.scan(off, n, false)
	m.mu.RUnlock()
	if ok {
		return st, k, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	st, k, _, err = m.scan(off, n, true)
	return st, k, err
}

// scan is run under mu; without load it gives up (ok false) at a page that was
// not read yet. It looks no further than maxScan pages, so that a search
// through an empty disk doesn't keep writers waiting.
func (m *stateMap) scan(off, n int64, load bool) (st blockState, k int64, ok bool, err error) {
	const maxScan = 64
	block, end := off/overlayBlock, roundUp(off+n, overlayBlock)/overlayBlock
	at := block
	for pages := 0; at < end && pages < maxScan; pages++ {
		i := at / blocksPerPage
		if m.pages[i] == nil && !load {
			return 0, 0, false, nil
		}
		p, err := m.page(i)
		if err != nil {
			return 0, 0, true, err
		}
		stop := min(end, (i+1)*blocksPerPage)
		if at == block {
			st = p.get(at % blocksPerPage)
		}
		if p == untouched && st == stateBase {
			at = stop
			continue
		}
		for at < stop && p.get(at%blocksPerPage) == st {
			at++
		}
		if at < stop {
			break
		}
	}
	return st, min(at*overlayBlock-off, n), true, nil
}

// set gives the blocks of [from, to), which begins on a block's boundary, a state.
func (m *stateMap) set(from, to int64, st blockState) error {
	first, end := from/overlayBlock, roundUp(to, overlayBlock)/overlayBlock
	m.mu.RLock()
	same := m.holds(first, end, st)
	m.mu.RUnlock()
	if same {
		return nil // the common rewrite of what is there: no exclusive lock
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := first; at < end; at++ {
		i := at / blocksPerPage
		p, err := m.page(i)
		if err != nil {
			return err
		}
		if p.get(at%blocksPerPage) == st {
			continue
		}
		if p == untouched {
			p = new(statePage)
			m.pages[i] = p
		}
		p.set(at%blocksPerPage, st)
		p.dirty = true
	}
	return nil
}

func (m *stateMap) holds(first, end int64, st blockState) bool {
	for at := first; at < end; at++ {
		p := m.pages[at/blocksPerPage]
		if p == nil || p.get(at%blocksPerPage) != st {
			return false
		}
	}
	return true
}

// takeDirty copies the pages that changed since the last call, which thereby
// count as clean.
func (m *stateMap) takeDirty() []dirtyPage {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []dirtyPage
	for i, p := range m.pages {
		if p != nil && p.dirty {
			out = append(out, dirtyPage{index: int64(i), bits: p.bits})
			p.dirty = false
		}
	}
	return out
}
