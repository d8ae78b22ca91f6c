package claims

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// format is the version of what is written; a later one is refused.
const format = "lifeboat-claim/1"

// maxRecord bounds what is parsed, in bytes. What is written is far below it:
// maxName is how long resources and owners may be.
const (
	maxRecord = 64 << 10
	maxName   = 4 << 10
)

// record is the content of an object.
type record struct {
	Format   string    `json:"format"`
	Resource string    `json:"resource"`
	Epoch    uint64    `json:"epoch"`
	Owner    string    `json:"owner,omitempty"`
	Last     string    `json:"last,omitempty"`    // who has given it back
	Since    time.Time `json:"since"`             // of the holding, or of its end
	Seizure  string    `json:"seizure,omitempty"` // of whoever has seized it
	Nonce    string    `json:"nonce"`             // contents never repeat
}

// encode gives the record a nonce, and the time if it has none.
func (r *record) encode(now time.Time) ([]byte, error) {
	if len(r.Resource) > maxName || len(r.Owner) > maxName {
		return nil, fmt.Errorf("%w: names of a claim's resource and owner of %d and %d bytes; at most %d", dr.ErrInvalid, len(r.Resource), len(r.Owner), maxName)
	}
	if !utf8.ValidString(r.Resource) || !utf8.ValidString(r.Owner) {
		return nil, fmt.Errorf("%w: claim of %q by %q: both must be UTF-8", dr.ErrInvalid, r.Resource, r.Owner)
	}
	r.Format, r.Nonce = format, rand.Text()
	if r.Since.IsZero() {
		r.Since = now.UTC().Round(0)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(r)
	return b.Bytes(), err
}

// parse reads what an object holds: of this resource, or of any that has the
// object's name if resource is "".
func parse(name, resource string, data []byte) (*record, error) {
	r := &record{}
	if err := decode(data, r); err != nil {
		return nil, corrupt(name, err)
	}
	if f, ok := strings.CutPrefix(r.Format, "lifeboat-claim/"); ok && f != "1" && f != "" {
		return nil, fmt.Errorf("%w: object %s is of format %q; this program knows %s", dr.ErrUnsupported, name, r.Format, format)
	}
	base := name[strings.LastIndexByte(name, '/')+1:]
	switch {
	case r.Format != format:
		return nil, corrupt(name, fmt.Errorf("its format is %q, not %q", r.Format, format))
	case r.Resource == "", resource != "" && r.Resource != resource, objectName(r.Resource) != base:
		return nil, corrupt(name, fmt.Errorf("it is about %q", r.Resource))
	case r.Epoch == 0, r.Epoch >= math.MaxInt64:
		return nil, corrupt(name, fmt.Errorf("its epoch is %d", r.Epoch))
	case r.Nonce == "":
		return nil, corrupt(name, errors.New("it has no nonce"))
	}
	return r, nil
}

func decode(data []byte, r *record) error {
	if len(data) > maxRecord {
		return fmt.Errorf("it is %d bytes long, and at most %d are expected", len(data), maxRecord)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(r); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the claim")
	}
	return nil
}

func corrupt(name string, cause error) error {
	return &dr.Error{Op: "read claim", Side: dr.StoreSide, Err: fmt.Errorf("%w: object %s: %w", dr.ErrCorrupt, name, cause),
		Remedy: "make sure that no run holds it, and give it an epoch that was never used, with Repair"}
}

// mark begins the last part of all names, so that none is one that Windows
// keeps for devices.
const mark = "of-"

// maxPlain is how long an escaped resource may be; hashed is how much of a
// longer one is kept for people to read.
const (
	maxPlain = 180
	hashed   = 100
)

// objectName is the last part of a resource's object's name. Different
// resources have different ones, also where upper and lower case are one.
func objectName(resource string) string {
	var b strings.Builder
	for i := range len(resource) {
		switch c := resource[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	name := b.String()
	if len(name) > maxPlain {
		sum := sha256.Sum256([]byte(resource))
		// No escaped byte begins with "_-".
		name = name[:hashed] + "_-" + hex.EncodeToString(sum[:])
	}
	return mark + name
}
