package vhdx

const (
	logSector  = 4 * kib
	logHeader  = 64
	descriptor = 32
	inFirst    = (logSector - logHeader) / descriptor // descriptors in an entry's first sector
	inOthers   = logSector / descriptor
	// entryPages is how many pages an entry that is written takes: those that one
	// sector of descriptors names. It fits half of the smallest log.
	entryPages = inFirst
)

// change is a page of the file that is written through the log.
type change struct {
	off  int64
	data *[page]byte
}

// encodeEntry makes a log entry. Its tail, itself, says that everything that
// went through the log before is in its place.
func encodeEntry(id GUID, sequence uint64, at uint32, fileSize int64, changes []change) []byte {
	b := make([]byte, (1+len(changes))*logSector)
	copy(b, "loge")
	le.PutUint32(b[8:], uint32(len(b)))
	le.PutUint32(b[12:], at)
	le.PutUint64(b[16:], sequence)
	le.PutUint32(b[24:], uint32(len(changes)))
	copy(b[32:], id[:])
	le.PutUint64(b[48:], uint64(fileSize)) // durable
	le.PutUint64(b[56:], uint64(fileSize))
	for i, c := range changes {
		d := b[logHeader+descriptor*i:]
		copy(d, "desc")
		copy(d[4:8], c.data[page-4:])
		copy(d[8:16], c.data[:8])
		le.PutUint64(d[16:], uint64(c.off))
		le.PutUint64(d[24:], sequence)
		s := b[logSector*(1+i):][:logSector]
		copy(s, "data")
		le.PutUint32(s[4:], uint32(sequence>>32))
		copy(s[8:], c.data[8:page-4])
		le.PutUint32(s[logSector-4:], uint32(sequence))
	}
	seal(b)
	return b
}

// logEntry is one that was found valid.
type logEntry struct {
	at, len, tail uint32
	sequence      uint64
	flushed, last int64  // sizes of the file: durable, and when it was written
	data          []byte // all of it, put together where it went round the log's end
}

// parseEntry reads the entry that starts at a sector of the log, if there is a
// whole one. A sector that begins another entry ends it, so that the work for
// all sectors together is that for the log's length, whatever it holds.
func parseEntry(log []byte, at uint32, id GUID) (e logEntry, ok bool) {
	h := log[at:][:logSector]
	e = logEntry{at: at, len: le.Uint32(h[8:]), tail: le.Uint32(h[12:]), sequence: le.Uint64(h[16:]),
		flushed: int64(le.Uint64(h[48:])), last: int64(le.Uint64(h[56:]))}
	n := int64(le.Uint32(h[24:]))
	if string(h[:4]) != "loge" || GUID(h[32:48]) != id || e.sequence == 0 ||
		e.len == 0 || e.len%logSector != 0 || int64(e.len) > int64(len(log)) ||
		e.tail%logSector != 0 || int64(e.tail) >= int64(len(log)) ||
		e.flushed < 0 || e.last < 0 || n*descriptor > int64(e.len)-logHeader {
		return e, false
	}
	sectors := descriptorSectors(n)
	data := int64(0)
	for s := range int64(e.len / logSector) {
		b := log[(int64(at)+s*logSector)%int64(len(log)):][:logSector]
		switch {
		case s > 0 && string(b[:4]) == "loge":
			return e, false
		case s >= sectors:
			if string(b[:4]) != "data" || s >= sectors+data {
				return e, false
			}
			continue
		}
		list, count := b, int64(inOthers)
		if s == 0 {
			list, count = b[logHeader:], inFirst
		}
		for range min(count, n) {
			switch string(list[:4]) {
			case "desc":
				data++
			case "zero":
			default:
				return e, false
			}
			list = list[descriptor:]
			n--
		}
	}
	if int64(e.len) != (sectors+data)*logSector {
		return e, false
	}
	whole := log[at:]
	if int64(len(whole)) >= int64(e.len) {
		whole = whole[:e.len]
	} else {
		whole = append(append(make([]byte, 0, e.len), whole...), log[:int64(e.len)-int64(len(whole))]...)
	}
	e.data = whole
	return e, sealed(whole)
}

// descriptorSectors is how many sectors an entry with n descriptors has before
// its data.
func descriptorSectors(n int64) int64 {
	return (logHeader + n*descriptor + logSector - 1) / logSector
}

// each calls fn for what the entry changes: a page, or n bytes of zeros.
func (e logEntry) each(base int64, fn func(off int64, data *[page]byte, zeros int64) error) error {
	n := int64(le.Uint32(e.data[24:]))
	next := descriptorSectors(n) * logSector
	for i := range n {
		d := e.data[logHeader+descriptor*i:][:descriptor]
		at := base + int64(e.at)
		off, sequence := le.Uint64(d[16:]), le.Uint64(d[24:])
		if sequence != e.sequence || off%page != 0 || off > maxFile {
			return corrupt(at, "descriptor %d of the log entry %d", i, e.sequence)
		}
		if string(d[:4]) == "zero" {
			length := le.Uint64(d[8:])
			if length == 0 || length%page != 0 || length > maxFile {
				return corrupt(at, "descriptor %d of the log entry %d", i, e.sequence)
			}
			if err := fn(int64(off), nil, int64(length)); err != nil {
				return err
			}
			continue
		}
		s := e.data[next:][:logSector]
		next += logSector
		if uint64(le.Uint32(s[4:]))<<32|uint64(le.Uint32(s[logSector-4:])) != e.sequence {
			return corrupt(at, "data of descriptor %d of the log entry %d", i, e.sequence)
		}
		data := [page]byte(s)
		copy(data[:8], d[8:16])
		copy(data[page-4:], d[4:8])
		if err := fn(int64(off), &data, 0); err != nil {
			return err
		}
	}
	return nil
}
