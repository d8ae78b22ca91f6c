package vmware

// window is the last part of a stream that has passed: the bytes [lo, hi) of a
// disk, each at its offset modulo the length of the ring.
type window struct {
	ring   []byte
	lo, hi int64
}

func (w *window) begin(size, most int64) {
	*w = window{ring: make([]byte, min(size, most))}
}

// put stores n bytes behind hi, of data or, if that is nil, zeros, or fewer; it
// returns how many. They show when hi is moved. More zeros than the ring has
// are stored as so many.
func (w *window) put(data []byte, n int64) int64 {
	most := int64(len(w.ring))
	if data == nil && n > most {
		clear(w.ring)
		w.lo = w.hi + n - most
		return n
	}
	n = min(n, most)
	for done := int64(0); done < n; {
		at := (w.hi + done) % most
		part := w.ring[at:min(most, at+n-done)]
		if data == nil {
			clear(part)
		} else {
			copy(part, data[done:])
		}
		done += int64(len(part))
	}
	w.lo = max(w.lo, w.hi+n-most)
	return n
}

// serve gives a read what the window has of its beginning, and reports whether
// that was all of it.
func (w *window) serve(r *want) bool {
	for len(r.p) > 0 && r.off >= w.lo && r.off < w.hi {
		at := r.off % int64(len(w.ring))
		end := min(int64(len(w.ring)), at+w.hi-r.off)
		n := copy(r.p, w.ring[at:end])
		r.p, r.off = r.p[n:], r.off+int64(n)
	}
	return len(r.p) == 0
}
