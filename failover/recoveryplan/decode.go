package recoveryplan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// maxFile is how large a plan's file may be, in bytes. A plan of a hundred
// machines has some ten thousand.
const maxFile = 4 << 20

// Decode reads a plan from YAML, of which JSON is a part. Fields that don't
// exist and a second document are ErrInvalid, as is whatever [Plan.Validate]
// refuses: a plan that was mistyped must not be found out in the night in which
// it is needed.
func Decode(r io.Reader) (Plan, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return Plan{}, fmt.Errorf("read recovery plan: %w", err)
	}
	if len(raw) > maxFile {
		return Plan{}, fmt.Errorf("%w: recovery plan: a file of more than %d bytes", dr.ErrInvalid, maxFile)
	}
	p, err := decode(raw)
	if err != nil {
		return Plan{}, fmt.Errorf("recovery plan: %w", err)
	}
	return p, p.Validate()
}

func decode(raw []byte) (Plan, error) {
	var p Plan
	d := yaml.NewDecoder(bytes.NewReader(raw))
	var doc any
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the file is empty")
		}
		return p, fmt.Errorf("%w: %v", dr.ErrInvalid, err)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return p, fmt.Errorf("%w: there is more than one document in the file", dr.ErrInvalid)
	}
	// One way to read a plan: what YAML says is read as the JSON that it means.
	b, err := json.Marshal(doc)
	if err != nil {
		return p, fmt.Errorf("%w: %v", dr.ErrInvalid, err)
	}
	return p, strict(b, &p)
}

// strict refuses fields that don't exist.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, dr.ErrInvalid) {
			return err
		}
		return fmt.Errorf("%w: %v", dr.ErrInvalid, err)
	}
	return nil
}
