package bucket

import (
	"context"
	"io"
	"iter"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// Prefix returns the part of a bucket whose names begin with prefix, as a bucket
// of its own: so one bucket has a vault for each machine. The prefix ends with
// '/'. Locks are apart as well; of a bucket that has none they are
// dr.ErrUnsupported.
func Prefix(b vault.Bucket, prefix string) vault.Bucket { return &part{b, prefix} }

type part struct {
	b      vault.Bucket
	prefix string
}

func (p *part) name(name string) (string, error) { return p.prefix + name, checkName(name) }

func (p *part) Create(ctx context.Context, name string) (vault.Writer, error) {
	name, err := p.name(name)
	if err != nil {
		return nil, err
	}
	return p.b.Create(ctx, name)
}

func (p *part) ReadAt(ctx context.Context, name string, b []byte, off int64) (int, error) {
	name, err := p.name(name)
	if err != nil {
		return 0, err
	}
	return p.b.ReadAt(ctx, name, b, off)
}

func (p *part) List(ctx context.Context, prefix string) iter.Seq2[vault.Object, error] {
	return func(yield func(vault.Object, error) bool) {
		for o, err := range p.b.List(ctx, p.prefix+prefix) {
			o.Name = strings.TrimPrefix(o.Name, p.prefix)
			if !yield(o, err) {
				return
			}
		}
	}
}

func (p *part) Delete(ctx context.Context, name string) error {
	name, err := p.name(name)
	if err != nil {
		return err
	}
	return p.b.Delete(ctx, name)
}

func (p *part) ReadHead(ctx context.Context, name string) ([]byte, vault.Version, error) {
	name, err := p.name(name)
	if err != nil {
		return nil, "", err
	}
	return p.b.ReadHead(ctx, name)
}

func (p *part) SwapHead(ctx context.Context, name string, old vault.Version, data []byte) (vault.Version, error) {
	name, err := p.name(name)
	if err != nil {
		return "", err
	}
	return p.b.SwapHead(ctx, name, old, data)
}

func (p *part) Lock(ctx context.Context, name string, exclusive bool) (io.Closer, error) {
	name, err := p.name(name)
	if err != nil {
		return nil, err
	}
	l, ok := dr.As[vault.Locker](p.b)
	if !ok {
		return nil, dr.ErrUnsupported
	}
	return l.Lock(ctx, name, exclusive)
}
