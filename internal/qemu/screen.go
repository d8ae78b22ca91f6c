package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"os"
)

// Screens are bounded: QEMU's VGA card has 16 MiB.
const (
	maxScreen = 8 << 20 // pixels
	maxSide   = 16 << 10
)

// Screen returns what is on the machine's screen, as a PNG.
func (m *Machine) Screen(ctx context.Context) ([]byte, error) {
	m.screens.Lock() // they share a file
	defer m.screens.Unlock()
	// QEMU writes it as its user, and only what it made itself.
	if err := os.Remove(m.place.name(screenFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// The same in every version of QEMU; PNG came with 7.1.
	if _, err := m.qmp.Do(ctx, "screendump", map[string]string{"filename": screenFile}); err != nil {
		return nil, err
	}
	f, err := m.place.openOurs(screenFile)
	if err != nil {
		return nil, fmt.Errorf("screen: %w", err)
	}
	defer os.Remove(m.place.name(screenFile))
	defer f.Close()
	img, err := readPPM(f)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// readPPM reads a binary PPM (https://netpbm.sourceforge.net/doc/ppm.html) of
// eight bits a colour, as QEMU writes it.
func readPPM(from io.Reader) (image.Image, error) {
	r := bufio.NewReader(io.LimitReader(from, 3*maxScreen+64))
	bad := func(format string, a ...any) (image.Image, error) {
		return nil, fmt.Errorf("screen: not a picture: "+format, a...)
	}
	var magic string
	var w, h, most int
	if _, err := fmt.Fscan(r, &magic, &w, &h, &most); err != nil {
		return bad("%w", err)
	}
	if _, err := r.ReadByte(); err != nil { // one white space
		return bad("%w", err)
	}
	if magic != "P6" || most != 255 || w <= 0 || h <= 0 || w > maxSide || h > maxSide || w*h > maxScreen {
		return bad("%.8q of %d by %d, %d", magic, w, h, most)
	}
	// By rows: what the header claims is believed only as far as bytes come.
	row := make([]byte, 3*w)
	var pix []byte
	for range h {
		if _, err := io.ReadFull(r, row); err != nil {
			return bad("%w", err)
		}
		for i := 0; i < len(row); i += 3 {
			pix = append(pix, row[i], row[i+1], row[i+2], 255)
		}
	}
	return &image.RGBA{Pix: pix, Stride: 4 * w, Rect: image.Rect(0, 0, w, h)}, nil
}
