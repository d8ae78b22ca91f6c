package vault

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// magic begins every object; its last byte is the version of the format.
const magic = "LBVAULT\x01"

// kind is the byte behind the magic that tells objects apart.
type kind byte

const (
	kindVault   kind = 'V'
	kindHead    kind = 'H'
	kindPoint   kind = 'P'
	kindDraft   kind = 'D'
	kindSegment kind = 'S'
)

// Ciphers.
const (
	cipherNone = 0
	cipherGCM  = 1
)

const (
	sumLen       = 16
	envelopeHead = 32
	saltAt       = 16
	saltLen      = 16
)

// maxEnvelope bounds what is read of an object that is read whole: a head of
// 10,000 points takes 2 MiB at most.
const maxEnvelope = 64 << 20

// keyring holds the vault's data key; a nil one encrypts nothing.
type keyring struct{ key []byte }

// aead makes the cipher of one object: its key is derived from the data key
// and 16 bytes that are random and fresh for each object, so no key ever
// serves two of them.
func (k *keyring) aead(purpose string, id []byte) cipher.AEAD {
	var derived [keyLen]byte
	blake3.DeriveKey("lifeboat vault 1 "+purpose, append(append(make([]byte, 0, keyLen+len(id)), k.key...), id...), derived[:])
	a, err := newAEAD(derived[:])
	if err != nil {
		panic("vault: " + err.Error()) // only a wrong key length
	}
	return a
}

// envelopeSum covers the name too: an object in another's place is found.
func envelopeSum(name string, b []byte) []byte {
	h := blake3.New()
	h.WriteString(name)
	h.Write([]byte{0})
	h.Write(b)
	return h.Sum(nil)[:sumLen]
}

// seal wraps the body of an object that is small and read whole.
func (k *keyring) seal(kind kind, name string, body []byte) []byte {
	b := make([]byte, envelopeHead, envelopeHead+len(body)+tagLen+sumLen)
	copy(b, magic)
	b[8] = byte(kind)
	if k == nil {
		b = append(b, body...)
	} else {
		b[9] = cipherGCM
		rand.Read(b[saltAt : saltAt+saltLen])
		b = k.aead("envelope", b[saltAt:envelopeHead]).Seal(b, nonce(0), body, []byte(name))
	}
	return append(b, envelopeSum(name, b)...)
}

// unseal is the inverse of seal. It checks every bit.
func (k *keyring) unseal(kind kind, name string, b []byte) ([]byte, error) {
	if len(b) < envelopeHead+sumLen {
		return nil, fmt.Errorf("%w: object %s: cut off after %d bytes", dr.ErrCorrupt, name, len(b))
	}
	head, sum := b[:len(b)-sumLen], b[len(b)-sumLen:]
	if string(b[:7]) == magic[:7] && b[7] != magic[7] && bytes.Equal(envelopeSum(name, head), sum) {
		return nil, fmt.Errorf("%w: object %s: format version %d; this program reads version 1", dr.ErrUnsupported, name, b[7])
	}
	if !bytes.Equal(envelopeSum(name, head), sum) {
		return nil, fmt.Errorf("%w: object %s: its sum doesn't match", dr.ErrCorrupt, name)
	}
	if string(b[:8]) != magic || b[8] != byte(kind) {
		return nil, fmt.Errorf("%w: object %s: not of kind %q", dr.ErrCorrupt, name, byte(kind))
	}
	body := head[envelopeHead:]
	switch {
	case b[9] == cipherNone && (k == nil || kind == kindVault):
		return body, nil
	case b[9] == cipherGCM && k != nil:
		plain, err := k.aead("envelope", b[saltAt:envelopeHead]).Open(nil, nonce(0), body, []byte(name))
		if err != nil {
			return nil, fmt.Errorf("%w: object %s: not sealed by this vault's key", dr.ErrCorrupt, name)
		}
		return plain, nil
	}
	return nil, fmt.Errorf("%w: object %s: cipher %d", dr.ErrCorrupt, name, b[9])
}

// readAll reads an object whole.
func readAll(ctx context.Context, b Bucket, name string) ([]byte, error) {
	// An odd length, so that it is not taken for a bulk read: only segments,
	// whose names never come again, may be kept open.
	p := make([]byte, 8<<10+1)
	for n := 0; ; {
		m, err := b.ReadAt(ctx, name, p[n:], int64(n))
		n += m
		if err == io.EOF {
			return p[:n], nil
		}
		if err != nil {
			return nil, err
		}
		if n > maxEnvelope {
			return nil, fmt.Errorf("%w: object %s: longer than %d bytes", dr.ErrCorrupt, name, maxEnvelope)
		}
		p = append(p, make([]byte, len(p))...)
	}
}

// readObject reads and unseals an object.
func (s *Store) readObject(ctx context.Context, kind kind, name string) ([]byte, error) {
	b, err := readAll(ctx, s.bucket, name)
	if err != nil {
		return nil, err
	}
	return s.keys.unseal(kind, name, b)
}

// writeObject seals and writes an object that isn't there yet.
func (s *Store) writeObject(ctx context.Context, kind kind, name string, body []byte) error {
	return putObject(ctx, s.bucket, name, s.keys.seal(kind, name, body))
}

func putObject(ctx context.Context, b Bucket, name string, data []byte) error {
	w, err := b.Create(ctx, name)
	if err != nil {
		return err
	}
	if _, err := w.WriteAt(data, 0); err != nil {
		w.Abort()
		return fmt.Errorf("write object %s: %w", name, err)
	}
	return w.Commit(ctx)
}
