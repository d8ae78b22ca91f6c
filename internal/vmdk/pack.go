package vmdk

import (
	"bytes"
	"encoding/binary"

	"github.com/klauspost/compress/zlib"
)

// pack is a grain with what it takes to compress it, used again and again.
type pack struct {
	index   int64
	plain   []byte
	packed  []byte // with its marker and padding, valid once done
	done    chan struct{}
	buffer  bytes.Buffer
	deflate *zlib.Writer
}

func newPack() *pack {
	return &pack{plain: make([]byte, grainBytes), done: make(chan struct{}, 1)}
}

// start compresses on a goroutine of its own, which sends to done once.
func (g *pack) start() {
	go func() {
		g.compress()
		g.done <- struct{}{}
	}()
}

func (g *pack) compress() {
	g.buffer.Reset()
	g.buffer.Write(make([]byte, grainHeader))
	if g.deflate == nil {
		// Its only error is an unknown level.
		g.deflate, _ = zlib.NewWriterLevel(&g.buffer, zlib.BestSpeed)
	} else {
		g.deflate.Reset(&g.buffer)
	}
	// A bytes.Buffer has no errors to report.
	g.deflate.Write(g.plain)
	g.deflate.Close()
	size := g.buffer.Len() - grainHeader
	g.buffer.Write(zeros[:sectors(int64(g.buffer.Len()))*sector-int64(g.buffer.Len())])
	g.packed = g.buffer.Bytes()
	binary.LittleEndian.PutUint64(g.packed, uint64(g.index*(grainBytes/sector)))
	binary.LittleEndian.PutUint32(g.packed[8:], uint32(size))
}
