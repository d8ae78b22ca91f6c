package vhdx

// allocator finds room in the file for blocks.
type allocator struct {
	end   int64   // behind all that is taken, in whole MiB
	gaps  []int64 // places of a block that are free
	freed []int64 // and those that are once the log says so
}

// release frees what is no longer shown by anything that is durable.
func (a *allocator) release() {
	a.gaps = append(a.gaps, a.freed...)
	a.freed = a.freed[:0]
	if len(a.gaps) > maxGaps {
		a.gaps = a.gaps[:maxGaps]
	}
}

// allocate finds room for a payload block and makes it zeros.
func (d *Disk) allocate() (int64, error) {
	a := &d.alloc
	if n := len(a.gaps); n > 0 {
		off := a.gaps[n-1]
		if err := blank(d.medium.File, off, d.meta.block); err != nil {
			return 0, err
		}
		a.gaps = a.gaps[:n-1]
		return off, nil
	}
	return d.extend(d.meta.block)
}

// extend makes the file longer, by n bytes of zeros.
func (d *Disk) extend(n int64) (int64, error) {
	a := &d.alloc
	if a.end+n > maxFile {
		return 0, unsupported("a file of more than %d bytes", int64(maxFile))
	}
	if err := d.medium.Truncate(a.end + n); err != nil {
		return 0, err
	}
	off := a.end
	a.end += n
	return off, nil
}
