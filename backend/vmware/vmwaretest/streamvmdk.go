package vmwaretest

import (
	"io"

	"github.com/lifeboat-dr/lifeboat/internal/vmdk"
)

// writeStream writes c as a streamOptimized VMDK. Blocks of zeros are left out.
func writeStream(w io.Writer, c *content, name string) error {
	out, err := vmdk.NewWriter(w, vmdk.Options{Capacity: c.Size(), Name: name})
	if err != nil {
		return err
	}
	buf := make([]byte, blockSize)
	for a := range c.written(1, 0) {
		for off := a.off; off < a.off+a.n; off += blockSize {
			p := buf[:min(blockSize, a.off+a.n-off)]
			if _, err := c.ReadAt(p, off); err != nil {
				return err
			}
			if _, err := out.WriteAt(p, off); err != nil {
				return err
			}
		}
	}
	return out.Commit()
}

// readStream gives every stored grain to emit and returns the capacity. It
// needs memory for one grain, and reads nothing behind the image.
func readStream(r io.Reader, emit func(off int64, p []byte) error) (int64, error) {
	in, err := vmdk.NewReader(r)
	if err != nil {
		return 0, err
	}
	for e, err := range in.Extents() {
		if err == nil && e.Data != nil {
			err = emit(e.Off, e.Data)
		}
		if err != nil {
			return in.Capacity(), err
		}
	}
	return in.Capacity(), nil
}
