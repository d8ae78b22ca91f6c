package vault

import (
	"fmt"
	"runtime"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault/fastzstd"
)

// Codec is how a chunk is stored. Each chunk has its own, so a vault may hold
// any mixture.
type Codec uint8

// Codecs. Their numbers are part of the format.
const (
	Raw  Codec = 0 // as it is; also what other codecs turn to where they don't save 1/16
	Zstd Codec = 1 // a Zstandard frame (https://www.rfc-editor.org/rfc/rfc8878)
	S2   Codec = 2 // an S2 block (https://github.com/klauspost/compress/tree/master/s2): thrice as fast, an eighth larger
)

const lastCodec = S2

// String returns the codec's name.
func (c Codec) String() string {
	switch c {
	case Raw:
		return "raw"
	case Zstd:
		return "zstd"
	case S2:
		return "s2"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// spare packers keep the processors at work while others wait to append.
const spare = 2

// packer compresses one chunk after another. Its tables are large, so packers
// are lent, as many as there are processors and some: more would not compress
// faster.
type packer struct {
	zstd fastzstd.Encoder
	out  []byte
}

// pack compresses the bytes of each blob, or leaves them as they are. What it
// made is valid until the next call.
func (k *packer) pack(c Codec, row []blob) {
	k.out = k.out[:0]
	for i := range row {
		b := &row[i]
		from := len(k.out)
		switch c {
		case Zstd:
			out, ok := k.zstd.Append(k.out, b.bytes)
			if !ok {
				continue
			}
			k.out = out
		case S2:
			room := k.out[from:cap(k.out)]
			k.out = k.out[:from+len(s2.Encode(room[:len(room):len(room)], b.bytes))]
		default:
			continue
		}
		if packed := k.out[from:]; len(packed) <= len(b.bytes)-len(b.bytes)/16 {
			b.codec, b.bytes = c, packed
		} else {
			k.out = k.out[:from]
		}
	}
}

// packers lends packers and holds the decoder, which serves all at once.
type packers struct {
	idle    chan *packer
	decoder *zstd.Decoder
}

func newPackers() (*packers, error) {
	n := runtime.GOMAXPROCS(0)
	p := &packers{idle: make(chan *packer, n+spare)}
	for range n + spare {
		p.idle <- nil // made when first lent
	}
	var err error
	// A frame that claims more than a chunk is an error, not an allocation.
	p.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(n), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(chunkSize), zstd.WithDecoderMaxWindow(chunkSize))
	return p, err
}

func (p *packers) get() *packer {
	k := <-p.idle
	if k == nil {
		k = &packer{out: make([]byte, 0, maxBatch*s2.MaxEncodedLen(chunkSize))}
	}
	return k
}

func (p *packers) put(k *packer) { p.idle <- k }

// unpack decodes b into dst[:0], which has the capacity of what is expected,
// and returns it. What doesn't fit is corrupt.
func (p *packers) unpack(c Codec, b, dst []byte) ([]byte, error) {
	switch c {
	case Raw:
		if len(b) > cap(dst) {
			break
		}
		return append(dst[:0], b...), nil
	case Zstd:
		out, err := p.decoder.DecodeAll(b, dst[:0])
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %w", dr.ErrCorrupt, err)
		}
		if len(out) > cap(dst) {
			break
		}
		return out, nil
	case S2:
		n, err := s2.DecodedLen(b)
		if err != nil || n > cap(dst) {
			break
		}
		out, err := s2.Decode(dst[:n], b)
		if err != nil {
			return nil, fmt.Errorf("%w: s2: %w", dr.ErrCorrupt, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%w: %s decodes to a wrong length", dr.ErrCorrupt, c)
}
