package scheduler

// heap is a binary heap whose items know where they are, so that any of them
// can be taken out. at returns an item's place in it, -1 for none.
type heap[T any] struct {
	items []T
	less  func(a, b T) bool
	at    func(T) *int
}

func (h *heap[T]) len() int       { return len(h.items) }
func (h *heap[T]) top() T         { return h.items[0] }
func (h *heap[T]) set(i int, v T) { h.items[i] = v; *h.at(v) = i }

// put adds v, or moves it to where its order has changed to.
func (h *heap[T]) put(v T) {
	i := *h.at(v)
	if i < 0 {
		i = len(h.items)
		h.items = append(h.items, v)
		*h.at(v) = i
	}
	h.down(h.up(i))
}

// drop takes v out, if it is in.
func (h *heap[T]) drop(v T) {
	i := *h.at(v)
	if i < 0 {
		return
	}
	*h.at(v) = -1
	end := len(h.items) - 1
	last := h.items[end]
	var none T
	h.items[end] = none
	h.items = h.items[:end]
	if i < end {
		h.set(i, last)
		h.down(h.up(i))
	}
}

func (h *heap[T]) up(i int) int {
	v := h.items[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(v, h.items[parent]) {
			break
		}
		h.set(i, h.items[parent])
		i = parent
	}
	h.set(i, v)
	return i
}

func (h *heap[T]) down(i int) {
	v := h.items[i]
	for {
		c := 2*i + 1
		if c >= len(h.items) {
			break
		}
		if c+1 < len(h.items) && h.less(h.items[c+1], h.items[c]) {
			c++
		}
		if !h.less(h.items[c], v) {
			break
		}
		h.set(i, h.items[c])
		i = c
	}
	h.set(i, v)
}
