package temporal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Limits of payloads.
const (
	// maxSealed is what a payload may have once it is encoded: Temporal's own
	// limit (limit.blobSize.error, 2 MiB by default).
	maxSealed = 2 << 20
	// maxClear bounds what a payload may have before it is compressed, and so
	// what decoding allocates.
	maxClear = 32 << 20
	// worthwhile is the size from which on compressing pays.
	worthwhile = 256
)

// Names in an encoded payload's metadata, all of which can be read.
const (
	metaEncoding = converter.MetadataEncoding
	metaKey      = "lifeboat-key"
	metaBound    = "lifeboat-bound"
	encodingName = "binary/lifeboat-sealed"
)

// Key is a secret that encrypts payloads.
type Key struct {
	ID     string // stands readable in histories; letters, digits, "-", "_" and "."
	Secret []byte // 32 random bytes
}

// CodecOptions are those of NewCodec.
type CodecOptions struct {
	// Keys: the first encrypts, all decrypt. To change the key, first add the
	// new one at the end everywhere, then move it to the front everywhere;
	// take the old one away when the last run that began with it is past the
	// namespace's retention. A key must not encrypt more than 2³² payloads.
	Keys []Key
	// AcceptPlain lets payloads be read that no codec has encrypted: for a
	// namespace whose open runs began without one. Without it, who can reach
	// Temporal but has no key can't answer a gate either.
	AcceptPlain bool
	// Max bounds an encoded payload in bytes; 0: 2 MiB. Raise it only
	// together with the server's limit.
	Max int
}

// Codec compresses, encrypts and bounds the payloads that go into Temporal's
// histories: what workflows and activities are given and return, updates,
// queries, memos, progress, and texts of errors. It implements
// converter.PayloadCodec and is safe for concurrent use.
//
// What stays readable: IDs of runs, names of task queues, namespaces, worker
// identities, search attributes (LifeboatFlow, LifeboatState,
// LifeboatMachines), times, and the sizes of payloads.
//
// A payload is sealed by AES-256-GCM together with its key's ID and, where the
// SDK says what it is for, with namespace and workflow ID: one that was moved
// to another run is refused.
type Codec struct {
	o     CodecOptions
	keys  map[string]cipher.AEAD
	bound string // "": not known
}

// NewCodec makes one. ErrInvalid for keys that can't be used.
func NewCodec(o CodecOptions) (*Codec, error) {
	if len(o.Keys) == 0 {
		return nil, fmt.Errorf("%w: a codec needs a key", dr.ErrInvalid)
	}
	if o.Max == 0 {
		o.Max = maxSealed
	}
	c := &Codec{o: o, keys: map[string]cipher.AEAD{}}
	for _, k := range o.Keys {
		if !readable(k.ID) {
			return nil, fmt.Errorf("%w: key ID %q: want 1 to 64 letters, digits, \"-\", \"_\" or \".\"", dr.ErrInvalid, k.ID)
		}
		if c.keys[k.ID] != nil {
			return nil, fmt.Errorf("%w: two keys %q", dr.ErrInvalid, k.ID)
		}
		if len(k.Secret) != 32 {
			return nil, fmt.Errorf("%w: key %q has %d bytes, not 32", dr.ErrInvalid, k.ID, len(k.Secret))
		}
		block, err := aes.NewCipher(k.Secret)
		if err != nil {
			return nil, err
		}
		if c.keys[k.ID], err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
	}
	c.o.Keys = []Key{{ID: o.Keys[0].ID}} // the secrets aren't needed any more
	return c, nil
}

func readable(id string) bool {
	for _, r := range id {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.' {
			return false
		}
	}
	return id != "" && len(id) <= 64
}

// String doesn't show keys.
func (c *Codec) String() string { return "codec with key " + c.o.Keys[0].ID }

// DataConverter is the SDK's default one with the codec behind it. Connect gives
// it to its client; give it to Open, too, as Options.Converter.
func (c *Codec) DataConverter() converter.DataConverter {
	return converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), c)
}

// WithSerializationContext returns a codec that binds what it encrypts to the
// workflow, and refuses what is bound to another.
func (c *Codec) WithSerializationContext(s converter.SerializationContext) converter.PayloadCodec {
	var namespace, workflow string
	switch s := s.(type) {
	case converter.WorkflowSerializationContext:
		namespace, workflow = s.Namespace, s.WorkflowID
	case converter.ActivitySerializationContext:
		namespace, workflow = s.Namespace, s.WorkflowID
	}
	if namespace == "" || workflow == "" {
		return c
	}
	d := *c
	d.bound = namespace + "/" + workflow
	return &d
}

// TooLarge is a payload that Temporal would not take. It is a dr.ErrInvalid,
// so that nobody tries again.
type TooLarge struct {
	Size, Max int // bytes, once encoded
}

func (e *TooLarge) Error() string {
	return fmt.Sprintf("%v: a payload of %d bytes, of which Temporal takes %d at most: keep plans, inputs and results small", dr.ErrInvalid, e.Size, e.Max)
}

// Unwrap returns dr.ErrInvalid.
func (e *TooLarge) Unwrap() error { return dr.ErrInvalid }

// What the first byte of a sealed payload says of what is inside.
const (
	formAsIs byte = 1
	formZstd byte = 2
)

// Encode seals the payloads. A *TooLarge names the size of one that would
// not be taken.
func (c *Codec) Encode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	all := make([]*commonpb.Payload, len(payloads))
	for i, p := range payloads {
		clear, err := proto.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("encode a payload: %w", err)
		}
		if len(clear) > maxClear {
			return nil, &TooLarge{Size: len(clear), Max: c.o.Max}
		}
		all[i] = c.seal(clear)
		if n := proto.Size(all[i]); n > c.o.Max {
			return nil, &TooLarge{Size: n, Max: c.o.Max}
		}
	}
	return all, nil
}

func (c *Codec) seal(clear []byte) *commonpb.Payload {
	form := formAsIs
	if len(clear) >= worthwhile {
		if small := packer.EncodeAll(clear, nil); len(small) < len(clear) {
			form, clear = formZstd, small
		}
	}
	key := c.o.Keys[0].ID
	gcm := c.keys[key]
	sealed := make([]byte, 1+gcm.NonceSize(), 1+gcm.NonceSize()+len(clear)+gcm.Overhead())
	sealed[0] = form
	_, _ = rand.Read(sealed[1:]) // never fails
	sealed = gcm.Seal(sealed, sealed[1:], clear, sealedWith(form, key, c.bound))
	meta := map[string][]byte{metaEncoding: []byte(encodingName), metaKey: []byte(key)}
	if c.bound != "" {
		meta[metaBound] = []byte(c.bound)
	}
	return &commonpb.Payload{Metadata: meta, Data: sealed}
}

// sealedWith is the associated data: nothing that is readable in a payload can
// be changed without being seen.
func sealedWith(form byte, key, bound string) []byte {
	b := append([]byte(encodingName), form)
	b = binary.BigEndian.AppendUint32(b, uint32(len(key)))
	b = append(b, key...)
	return append(b, bound...)
}

// Decode opens payloads. ErrCorrupt: one was changed, or belongs to another
// run, or nobody sealed it and AcceptPlain is off. ErrNotFound: it was sealed
// by a key that isn't there.
func (c *Codec) Decode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	all := make([]*commonpb.Payload, len(payloads))
	for i, p := range payloads {
		clear, err := c.open(p)
		if err != nil {
			return nil, &dr.Error{Op: "decode a payload of Temporal's", Err: err, Remedy: remedy(err)}
		}
		all[i] = clear
	}
	return all, nil
}

// remedy says what a person can do about a payload that can't be read.
func remedy(err error) string {
	switch {
	case errors.Is(err, dr.ErrNotFound):
		return "give every program of the namespace the same keys; one may only be taken away when no history has payloads of it any more"
	case errors.Is(err, dr.ErrUnsupported):
		return "upgrade this program"
	}
	return "if the run began without a codec, set AcceptPlain until it is forgotten; else somebody wrote into Temporal who has no key"
}

func (c *Codec) open(p *commonpb.Payload) (*commonpb.Payload, error) {
	meta := p.GetMetadata()
	if string(meta[metaEncoding]) != encodingName {
		if c.o.AcceptPlain {
			return p, nil
		}
		return nil, fmt.Errorf("%w: it isn't encrypted", dr.ErrCorrupt)
	}
	key, bound := string(meta[metaKey]), string(meta[metaBound])
	gcm := c.keys[key]
	if gcm == nil {
		return nil, fmt.Errorf("%w: key %q", dr.ErrNotFound, printable(key))
	}
	if c.bound != "" && bound != "" && bound != c.bound {
		return nil, fmt.Errorf("%w: it belongs to %q, and stands in %q", dr.ErrCorrupt, printable(bound), c.bound)
	}
	n := 1 + gcm.NonceSize()
	if len(p.Data) < n+gcm.Overhead() {
		return nil, fmt.Errorf("%w: %d bytes are too few", dr.ErrCorrupt, len(p.Data))
	}
	form := p.Data[0]
	clear, err := gcm.Open(nil, p.Data[1:n], p.Data[n:], sealedWith(form, key, bound))
	if err != nil {
		return nil, fmt.Errorf("%w: it was changed, or the key of this ID is another one", dr.ErrCorrupt)
	}
	switch form {
	case formAsIs:
	case formZstd:
		if clear, err = unpacker.DecodeAll(clear, nil); err != nil {
			return nil, fmt.Errorf("%w: %v", dr.ErrCorrupt, err)
		}
	default:
		return nil, fmt.Errorf("%w: form %d of a newer version", dr.ErrUnsupported, form)
	}
	var q commonpb.Payload
	if err := proto.Unmarshal(clear, &q); err != nil {
		return nil, fmt.Errorf("%w: %v", dr.ErrCorrupt, err)
	}
	return &q, nil
}

func printable(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return string(bytes.ToValidUTF8([]byte(s), []byte("?")))
}

// packer and unpacker keep no state between calls, and may be used by many.
var (
	packer   = must(zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault)))
	unpacker = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxClear)))
)

// must is for options that are constants.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
