package vhdx

import (
	"bytes"
	"cmp"
	"slices"
)

// findLog finds the entries that are to be replayed, oldest first. The log of a
// header that names one is never empty.
func findLog(f File, h header, size int64) ([]logEntry, error) {
	log := make([]byte, h.logSize)
	if err := readFull(f, log, h.logAt); err != nil {
		return nil, err
	}
	// Valid entries have no sector in common, so each follows one at most, and
	// they fall into runs that follow each other in place and sequence.
	var list []logEntry
	starts := map[uint32]int{}
	for at := uint32(0); int64(at) < h.logSize; at += logSector {
		if e, ok := parseEntry(log, at, h.logGUID); ok {
			starts[at] = len(list)
			list = append(list, e)
		}
	}
	next := func(i int) int {
		e := list[i]
		j, ok := starts[uint32((int64(e.at)+int64(e.len))%h.logSize)]
		if !ok || list[j].sequence != e.sequence+1 {
			return -1
		}
		return j
	}
	follows := make([]bool, len(list))
	for i := range list {
		if j := next(i); j >= 0 {
			follows[j] = true
		}
	}
	type place struct{ run, index int }
	places := make([]place, len(list))
	var runs [][]int
	for i := range list {
		if follows[i] {
			continue
		}
		var run []int
		for j := i; j >= 0; j = next(j) {
			places[j] = place{len(runs), len(run)}
			run = append(run, j)
		}
		runs = append(runs, run)
	}
	// The youngest entry whose run reaches back to its tail is the log's head.
	// One without was written before those that it relies on, when power went.
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(list[b].sequence, list[a].sequence) })
	for _, i := range order {
		head := list[i]
		t, ok := starts[head.tail]
		if !ok || places[t].run != places[i].run || places[t].index > places[i].index {
			continue
		}
		if head.flushed > size {
			return nil, corrupt(h.logAt+int64(head.at), "the file has %d bytes, the log knows %d", size, head.flushed)
		}
		if head.last > maxFile {
			return nil, corrupt(h.logAt+int64(head.at), "the log knows a file of %d bytes", head.last)
		}
		var out []logEntry
		for _, j := range runs[places[i].run][places[t].index : places[i].index+1] {
			out = append(out, list[j])
		}
		return out, nil
	}
	return nil, corrupt(h.logAt, "no valid entry in a log that isn't empty")
}

// readLog finds out what the file is like with its log replayed.
func readLog(f File, h header) (medium, error) {
	size, err := f.Size()
	if err != nil || h.logGUID == (GUID{}) {
		return medium{File: f, size: size}, err
	}
	entries, err := findLog(f, h, size)
	if err != nil {
		return medium{}, err
	}
	m := medium{File: f, size: max(size, entries[len(entries)-1].last),
		over: &overlay{fileSize: size, pages: map[int64]*[page]byte{}}}
	zeros := 0
	for _, e := range entries {
		err := e.each(h.logAt, func(off int64, data *[page]byte, n int64) error {
			end := off + max(n, page)
			if off < regionAt0 || end > m.size || off < h.logAt+h.logSize && h.logAt < end {
				return corrupt(h.logAt+int64(e.at), "the log changes bytes %d to %d, which it may not", off, end)
			}
			if data != nil {
				m.over.put(off, data)
				return nil
			}
			if zeros++; zeros > maxZeros {
				return unsupported("a log with more than %d descriptors of zeros", maxZeros)
			}
			m.over.zero(off, n)
			return nil
		})
		if err != nil {
			return medium{}, err
		}
	}
	return m, nil
}

// apply makes the file what it looks like through the overlay. It syncs nothing: a
// crash leaves the log as it is, to be replayed again.
func (o *overlay) apply(f File, size int64) error {
	if size > o.fileSize {
		if err := f.Truncate(size); err != nil {
			return err
		}
	}
	for _, z := range o.zeros {
		if err := blank(f, z.off, min(z.end(), o.fileSize)-z.off); err != nil {
			return err
		}
	}
	for off, data := range o.pages {
		if err := writeFull(f, data[:], off); err != nil {
			return err
		}
	}
	return nil
}

// blank makes a part of the file read as zeros, and writes none where it does.
func blank(f File, off, n int64) error {
	if n <= 0 {
		return nil
	}
	if p, ok := f.(puncher); ok {
		return p.Punch(off, n)
	}
	zeros, buf := make([]byte, min(n, mib)), make([]byte, min(n, mib))
	for n > 0 {
		part := buf[:min(n, int64(len(buf)))]
		if err := readFull(f, part, off); err != nil {
			return err
		}
		if !bytes.Equal(part, zeros[:len(part)]) {
			if err := writeFull(f, zeros[:len(part)], off); err != nil {
				return err
			}
		}
		off, n = off+int64(len(part)), n-int64(len(part))
	}
	return nil
}
