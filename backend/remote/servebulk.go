package remote

import (
	"encoding/binary"
	"fmt"
	"io/fs"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/agentwire"
)

// bulk makes a bulk call.
func (s *served) bulk() ([][]byte, error) {
	h, err := s.x.find(s.handle)
	if err != nil {
		return nil, err
	}
	if s.op != agentwire.OpWrite && s.op != agentwire.OpZero {
		if err := s.admit(s.ctx); err != nil {
			return nil, err
		}
	}
	h.use.RLock()
	defer h.use.RUnlock()
	switch {
	case h.closed:
		return nil, fs.ErrClosed
	case h.image != nil && s.op == agentwire.OpRead:
		return s.readAt(h.image)
	case h.image != nil && s.op == agentwire.OpSums:
		return s.sums(h.image)
	case h.draft == nil:
	case s.op == agentwire.OpSums:
		return s.sums(h.draft)
	case s.op == agentwire.OpWrite:
		n, err := h.draft.WriteAt(s.ctx, s.span.Disk, s.body, s.span.Off)
		if err == nil && n != len(s.body) {
			err = fmt.Errorf("the draft broke its contract: %d of %d bytes and no error", n, len(s.body))
		}
		return nil, err
	case s.op == agentwire.OpZero:
		z, err := ability[dr.Zeroer](s, h.draft)
		if err != nil {
			return nil, err
		}
		return nil, z.Zero(s.ctx, s.span.Disk, s.span.Off, s.span.N)
	case s.op == agentwire.OpPacked:
		return s.packed(h.draft)
	}
	return nil, fmt.Errorf("%w: %s of what is open under number %d", dr.ErrInvalid, s.op, h.id)
}

// ability finds what the call needs.
func ability[T any](s *served, v any) (T, error) {
	t, ok := dr.As[T](v)
	if !ok {
		return t, fmt.Errorf("%w: %s", dr.ErrUnsupported, s.op)
	}
	return t, nil
}

// readAt answers with what was read, and with the error behind it.
func (s *served) readAt(img dr.Image) ([][]byte, error) {
	s.buf = agentwire.NewBuffer()
	p := s.buf.At(s.span.Off, int(s.span.N))
	n, err := img.ReadAt(s.ctx, s.span.Disk, p, s.span.Off)
	if n < 0 || n > len(p) || n < len(p) && err == nil {
		return nil, fmt.Errorf("the image broke its contract: %d of %d bytes, error %w", n, len(p), err)
	}
	return readAnswer(p[:n], err, s.x.runs), nil
}

// readAnswer is a Read's answer on the wire: how many bytes were read and how
// long the error is, 4 bytes each, the error, and the body.
func readAnswer(p []byte, err error, runs bool) [][]byte {
	fault := agentwire.EncodeError(err)
	head := make([]byte, 0, 64+len(fault))
	head = binary.BigEndian.AppendUint32(head, uint32(len(p)))
	head = binary.BigEndian.AppendUint32(head, uint32(len(fault)))
	head = append(head, fault...)
	head, parts := agentwire.Runs(head, p, runs, make([][]byte, 1, 4))
	parts[0] = head
	return parts
}

func (s *served) sums(of any) ([][]byte, error) {
	a, err := ability[dr.Summer](s, of)
	if err != nil {
		return nil, err
	}
	sums := make([]dr.Sum, s.span.N)
	if err := a.Sums(s.ctx, s.span.Disk, s.span.Off, sums); err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(sums)*len(dr.Sum{}))
	for _, sum := range sums {
		b = append(b, sum[:]...)
	}
	return [][]byte{b}, nil
}

func (s *served) packed(d dr.Draft) ([][]byte, error) {
	a, err := ability[dr.Packer](s, d)
	if err != nil {
		return nil, err
	}
	sizes := make([]int32, s.span.N)
	if err := a.Packed(s.ctx, s.span.Disk, s.span.Off, sizes); err != nil {
		return nil, err
	}
	b := make([]byte, 0, 4*len(sizes))
	for _, n := range sizes {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return [][]byte{b}, nil
}
