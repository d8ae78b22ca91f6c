package vhdx

// medium is the file as it is after its log was replayed. Where the log was
// replayed in memory only, what it says lies over the file.
type medium struct {
	File
	size int64 // of the file, or what the log says that it should be
	over *overlay
}

// read reads all of p.
func (m medium) read(p []byte, off int64) error {
	if m.over == nil {
		return readFull(m.File, p, off)
	}
	return m.over.read(m.File, p, off)
}

// overlay is a log replayed in memory.
type overlay struct {
	fileSize int64 // what the file really has; behind it are zeros
	zeros    ranges
	pages    map[int64]*[page]byte // by offset; newer than zeros
}

func (o *overlay) zero(off, n int64) {
	if n/page < int64(len(o.pages)) {
		for at := off; at < off+n; at += page {
			delete(o.pages, at)
		}
	} else {
		for at := range o.pages {
			if off <= at && at < off+n {
				delete(o.pages, at)
			}
		}
	}
	o.zeros.cover(off, n)
}

func (o *overlay) put(off int64, p *[page]byte) { o.pages[off] = p }

func (o *overlay) read(f File, p []byte, off int64) error {
	real := max(0, min(int64(len(p)), o.fileSize-off))
	if err := readFull(f, p[:real], off); err != nil {
		return err
	}
	clear(p[real:])
	end := off + int64(len(p))
	for i := o.zeros.search(off); i < len(o.zeros) && o.zeros[i].off < end; i++ {
		z := o.zeros[i]
		clear(p[max(z.off, off)-off : min(z.end(), end)-off])
	}
	for at := off / page * page; at < end; at += page {
		if data := o.pages[at]; data != nil {
			lo := max(at, off)
			copy(p[lo-off:], data[lo-at:])
		}
	}
	return nil
}
