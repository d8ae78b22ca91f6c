package vault_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
	"golang.org/x/crypto/scrypt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// stranger reads a vault by what FORMAT.md says, and nothing else: it shares no
// code with the package. What it can't do, FORMAT.md doesn't tell.
type stranger struct {
	t   *testing.T
	dir string
	key []byte // data key; nil: not encrypted
}

func (s *stranger) file(name string) []byte {
	b, err := os.ReadFile(filepath.Join(s.dir, filepath.FromSlash(name)))
	require.NoError(s.t, err)
	return b
}

func sum(parts ...[]byte) []byte {
	h := blake3.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)[:16]
}

// open decrypts with the key that is derived in a context from some bytes.
func (s *stranger) open(context string, id []byte, nonce uint32, sealed, additional []byte) []byte {
	var key [32]byte
	blake3.DeriveKey("lifeboat vault 1 "+context, append(bytes.Clone(s.key), id...), key[:])
	return gcm(s.t, key[:], nonce, sealed, additional)
}

func gcm(t *testing.T, key []byte, nonce uint32, sealed, additional []byte) []byte {
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	aead, err := cipher.NewGCM(block)
	require.NoError(t, err)
	n := make([]byte, 12)
	binary.LittleEndian.PutUint32(n, nonce)
	plain, err := aead.Open(nil, n, sealed, additional)
	require.NoError(t, err)
	return plain
}

// envelope reads a small object.
func (s *stranger) envelope(kind byte, name string) []byte {
	b := s.file(name)
	end := len(b) - 16
	require.Equal(s.t, "LBVAULT\x01"+string(kind), string(b[:9]))
	require.Equal(s.t, sum([]byte(name), []byte{0}, b[:end]), b[end:])
	if b[9] == 0 {
		return b[32:end]
	}
	return s.open("envelope", b[16:32], 0, b[32:end], []byte(name))
}

// unlock unwraps the data key.
func (s *stranger) unlock(passphrase string) {
	var f struct {
		Version int
		Key     []byte
	}
	require.NoError(s.t, json.Unmarshal(s.envelope('V', "vault"), &f))
	require.Equal(s.t, 1, f.Version)
	if f.Key == nil {
		return
	}
	require.Len(s.t, f.Key, 68)
	key, err := scrypt.Key([]byte(passphrase), f.Key[4:20], 1<<f.Key[1], int(f.Key[2]), int(f.Key[3]), 32)
	require.NoError(s.t, err)
	s.key = gcm(s.t, key, 0, f.Key[20:], f.Key[:4])
}

// points are the names of a machine's manifests, oldest first.
func (s *stranger) points(machine string) (names []string) {
	b := s.envelope('H', "head/"+machine)
	n := binary.LittleEndian.Uint32(b[16:])
	b = b[20:]
	for range n {
		seq, k := binary.LittleEndian.Uint64(b), int(b[8])
		names = append(names, fmt.Sprintf("point/%s/%016x-%s", machine, seq, b[9:9+k]))
		b = b[9+k:]
	}
	require.Empty(s.t, b)
	return names
}

// reference says where a blob is.
type reference struct {
	segment [16]byte
	offset  uint32
	length  int
	codec   byte
	sum     []byte
}

// blob reads what a reference is of, decrypted and decompressed.
func (s *stranger) blob(r reference) []byte {
	name := hex.EncodeToString(r.segment[:])
	generations, err := filepath.Glob(filepath.Join(s.dir, "seg", name[:2], name+".*"))
	require.NoError(s.t, err)
	require.Len(s.t, generations, 1)
	b, err := os.ReadFile(generations[0])
	require.NoError(s.t, err)
	at := r.offset
	if filepath.Ext(generations[0]) != ".0" {
		at = s.moved(b, r)
	}
	stored := b[at:][:r.length]
	if s.key != nil {
		stored = s.open("segment", r.segment[:], r.offset, stored, nil)
	}
	plain := stored
	switch r.codec {
	case 1:
		d, err := zstd.NewReader(nil)
		require.NoError(s.t, err)
		defer d.Close()
		plain, err = d.DecodeAll(stored, nil)
		require.NoError(s.t, err)
	case 2:
		plain, err = s2.Decode(nil, stored)
		require.NoError(s.t, err)
	}
	require.Equal(s.t, r.sum, sum(plain))
	return plain
}

// moved finds a blob in a segment that was rewritten.
func (s *stranger) moved(b []byte, r reference) uint32 {
	t := b[len(b)-64:]
	end, footer, length := binary.LittleEndian.Uint32(t[8:]), binary.LittleEndian.Uint32(t[12:]), binary.LittleEndian.Uint32(t[16:])
	require.Equal(s.t, sum(b[end:len(b)-16]), b[len(b)-16:])
	f := b[footer:][:length]
	if s.key != nil {
		f = s.open("footer", append(r.segment[:], t[20:32]...), 0, f, nil)
	}
	for range 2 { // the machine and the point
		f = f[2+binary.LittleEndian.Uint16(f):]
	}
	disks := binary.LittleEndian.Uint16(f)
	f = f[2:]
	for range disks {
		f = f[2+binary.LittleEndian.Uint16(f)+8:]
	}
	for f = f[4:]; len(f) > 0; f = f[48:] {
		if binary.LittleEndian.Uint32(f[12:]) == r.offset && f[11]&2 == 0 {
			return binary.LittleEndian.Uint32(f[16:])
		}
	}
	require.Fail(s.t, "no such blob")
	return 0
}

// page calls child for each reference of a map page.
func (s *stranger) page(r reference, level int, child func(i int, r reference)) {
	b := s.blob(r)
	require.Equal(s.t, []byte{1, byte(level)}, b[:2])
	k := int(binary.LittleEndian.Uint16(b[4:]))
	bitmap, segments, rest := b[8:72], b[72:72+16*k], b[72+16*k:]
	varint := func() int {
		n, k := binary.Uvarint(rest)
		require.Positive(s.t, k)
		rest = rest[k:]
		return int(n)
	}
	var at reference
	for i := range 512 {
		if bitmap[i/8]>>(i%8)&1 == 0 {
			continue
		}
		flags := rest[0]
		rest = rest[1:]
		if flags&0x80 != 0 {
			at.offset += uint32(at.length)
		} else {
			at.segment = [16]byte(segments[16*varint():])
			at.offset = uint32(varint())
		}
		at.codec, at.length = flags&15, varint()
		at.sum, rest = rest[:16], rest[16:]
		child(i, at)
	}
	require.Empty(s.t, rest)
}

// fill puts what is below a page that begins with a chunk into a disk.
func (s *stranger) fill(disk []byte, r reference, level int, first int) {
	s.page(r, level, func(i int, r reference) {
		if level > 0 {
			s.fill(disk, r, level-1, first+i<<(9*level))
			return
		}
		at := (first + i) * 65536
		plain := s.blob(r)
		require.Len(s.t, plain, min(65536, len(disk)-at))
		copy(disk[at:], plain)
	})
}

// read reads a point whole.
func (s *stranger) read(manifest string) content {
	var m struct {
		Disks []struct {
			ID   dr.DiskID
			Size int
			Root *struct {
				Segment, Sum string
				Offset       uint32
				Length       int
			}
		}
	}
	require.NoError(s.t, json.Unmarshal(s.envelope('P', manifest), &m))
	all := content{}
	for _, d := range m.Disks {
		all[d.ID] = make([]byte, d.Size)
		if d.Root == nil {
			continue
		}
		segment, err := hex.DecodeString(d.Root.Segment)
		require.NoError(s.t, err)
		sum, err := hex.DecodeString(d.Root.Sum)
		require.NoError(s.t, err)
		level := 0
		for span := 512 * 65536; span < d.Size; span *= 512 {
			level++
		}
		s.fill(all[d.ID], reference{segment: [16]byte(segment), offset: d.Root.Offset, length: d.Root.Length, sum: sum}, level, 0)
	}
	return all
}

func TestFormatIsEnoughToReadVaults(t *testing.T) {
	for _, name := range []string{"v1-plain", "v1-sealed"} {
		t.Run(name, func(t *testing.T) {
			s := &stranger{t: t, dir: filepath.Join("testdata", name)}
			s.unlock("lifeboat")
			names := s.points("m")
			require.Len(t, names, 2)
			for i, p := range stored()[1:] {
				got := s.read(names[i])
				require.Len(t, got, len(p.want))
				for disk, want := range p.want {
					require.True(t, bytes.Equal(want, got[disk]), "point %s disk %s", p.point.ID, disk)
				}
			}
		})
	}
}
