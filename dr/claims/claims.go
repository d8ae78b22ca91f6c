package claims

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"math"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Bucket is where claims are kept: small objects that are replaced by
// compare-and-swap. The buckets of package vault, and of azbucket below it, are
// such; V is their version's type and O what they list.
//
// Names are parts of letters, digits, '-', '_' and '.' joined by '/', each of at
// most 217 bytes. All methods are safe for concurrent use, also by several
// processes. Errors are those of package dr.
type Bucket[V ~string, O ~struct {
	Name string
	Size int64
}] interface {
	// ReadHead returns an object and its version; one that isn't there has no
	// content and the version "". What it returns is durable.
	ReadHead(ctx context.Context, name string) ([]byte, V, error)
	// SwapHead replaces the object, durably, if its version still is old ("": if
	// it isn't there), and otherwise fails with dr.ErrConflict and without
	// effect. After any other error nobody knows whether it had any.
	SwapHead(ctx context.Context, name string, old V, data []byte) (V, error)
	// List yields the objects whose names begin with prefix, by name.
	List(ctx context.Context, prefix string) iter.Seq2[O, error]
}

// Options are the settings of claims. The zero value works.
type Options struct {
	// Prefix begins the names of all objects. "": "claims/".
	Prefix string
	// Now is the clock of what people are told, and of dr.NextEpoch. Nil:
	// time.Now.
	Now func() time.Time
}

// Claims are [dr.Claims] in a bucket or directory. All methods are safe for
// concurrent use; they need nobody to close them.
//
// Abilities: [dr.ClaimLister], [dr.EpochRaiser], [dr.ClaimSeizer].
type Claims struct {
	heads  heads
	prefix string
	now    func() time.Time

	mu    sync.Mutex
	doubt map[comparison]bool // with what swaps compare that may still be on their way
}

// comparison is what a swap depends on: that the object still has that version.
// Once it has another, the swap has no effect any more, however late it arrives.
type comparison struct{ name, version string }

// heads is a bucket without its types.
type heads struct {
	read func(ctx context.Context, name string) ([]byte, string, error)
	swap func(ctx context.Context, name, old string, data []byte) error
	list func(ctx context.Context, prefix string) iter.Seq2[string, error]
}

// New returns claims in a bucket. They get along with a vault in it.
func New[V ~string, O ~struct {
	Name string
	Size int64
}](b Bucket[V, O], o Options) *Claims {
	c := &Claims{prefix: o.Prefix, now: o.Now, doubt: map[comparison]bool{}, heads: heads{
		read: func(ctx context.Context, name string) ([]byte, string, error) {
			data, v, err := b.ReadHead(ctx, name)
			return data, string(v), notBusy(err)
		},
		swap: func(ctx context.Context, name, old string, data []byte) error {
			_, err := b.SwapHead(ctx, name, V(old), data)
			return notBusy(err)
		},
		list: func(ctx context.Context, prefix string) iter.Seq2[string, error] {
			return func(yield func(string, error) bool) {
				for o, err := range b.List(ctx, prefix) {
					// The conversion is how a field of a type parameter is reached.
					if !yield((struct {
						Name string
						Size int64
					})(o).Name, err) {
						return
					}
				}
			}
		},
	}}
	if c.prefix == "" {
		c.prefix = "claims/"
	}
	if c.now == nil {
		c.now = time.Now
	}
	return c
}

// notBusy keeps a place's own dr.ErrBusy, as that of a vault's lock in it, from
// being taken for a claim that another holds: runs end by that.
func notBusy(err error) error {
	if errors.Is(err, dr.ErrBusy) {
		return fmt.Errorf("the place of the claims can't be used at present: %v", err)
	}
	return err
}

// Acquire implements [dr.Claims].
func (c *Claims) Acquire(ctx context.Context, resource, owner string) (epoch uint64, err error) {
	if owner == "" {
		return 0, fmt.Errorf("%w: claim of %q: no owner is named", dr.ErrInvalid, resource)
	}
	err = c.change(ctx, "claim", resource, func(r *record) (bool, error) {
		switch r.Owner {
		case owner:
			epoch = r.Epoch
			return false, nil
		case "":
			epoch = dr.NextEpoch(r.Epoch, c.now())
			return true, r.give(owner, epoch)
		}
		return false, busy(resource, r)
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// Release implements [dr.Claims].
func (c *Claims) Release(ctx context.Context, resource, owner string) error {
	return c.change(ctx, "release", resource, func(r *record) (bool, error) {
		if owner == "" || r.Owner != owner {
			return false, nil
		}
		r.free()
		return true, nil
	})
}

// Raise implements [dr.EpochRaiser].
func (c *Claims) Raise(ctx context.Context, resource string, atLeast uint64) error {
	return c.change(ctx, "raise epoch of", resource, func(r *record) (bool, error) {
		if r.Epoch >= atLeast {
			return false, nil
		}
		if r.Owner != "" {
			return false, busy(resource, r)
		}
		return true, r.give("", atLeast)
	})
}

// Seize implements [dr.ClaimSeizer].
func (c *Claims) Seize(ctx context.Context, resource, from, to string) (epoch uint64, err error) {
	if from == "" {
		return 0, fmt.Errorf("%w: seize %q: from whom must be said", dr.ErrInvalid, resource)
	}
	// Asked again it finds its own work: another epoch must not follow.
	nonce := rand.Text()
	err = c.change(ctx, "seize", resource, func(r *record) (bool, error) {
		if r.Seizure == nonce {
			epoch = r.Epoch
			return false, nil
		}
		if r.Owner != from {
			held := "nobody holds it"
			if r.Owner != "" {
				held = "held by " + r.Owner
			}
			return false, fmt.Errorf("%s: %w: %s, not by %s", resource, dr.ErrConflict, held, from)
		}
		epoch = dr.NextEpoch(r.Epoch, c.now())
		if err := r.give(to, epoch); err != nil {
			return false, err
		}
		r.Seizure = nonce
		return true, nil
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// Repair replaces a claim that is damaged, which dr.ErrCorrupt tells, by one
// that nobody holds and whose next epoch is higher than epoch: give one that no
// platform and no record has seen yet. dr.ErrNotAllowed if the claim isn't
// damaged. As with Seize, make sure that nobody holds it.
func (c *Claims) Repair(ctx context.Context, resource string, epoch uint64) error {
	if epoch == 0 {
		return fmt.Errorf("%w: repair claim of %q: an epoch must be named", dr.ErrInvalid, resource)
	}
	name, err := c.object(resource)
	if err != nil {
		return err
	}
	data, version, err := c.heads.read(ctx, name)
	if err != nil {
		return fmt.Errorf("repair claim of %s: %w", resource, err)
	}
	if _, err := parse(name, resource, data); version == "" || !errors.Is(err, dr.ErrCorrupt) {
		return errors.Join(fmt.Errorf("repair claim of %s: %w: it isn't damaged", resource, dr.ErrNotAllowed), err)
	}
	r := &record{Resource: resource}
	if err := r.give("", epoch); err != nil {
		return err
	}
	if data, err = r.encode(c.now()); err == nil {
		err = c.heads.swap(ctx, name, version, data)
	}
	if err != nil {
		return fmt.Errorf("repair claim of %s: %w", resource, err)
	}
	return nil
}

// tries is how often a swap is made against others that come first. Each lost
// one is somebody else's progress; so many in a row mean that something is
// wrong with the place.
const tries = 64

// change reads, lets edit decide, and swaps, until that has come to something.
// edit says whether it has changed the record; it is called again with what
// others have made of it, and must find its own work in that.
func (c *Claims) change(ctx context.Context, op, resource string, edit func(*record) (bool, error)) error {
	name, err := c.object(resource)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		done, err := c.tryChange(ctx, name, resource, edit)
		if done {
			return err
		}
		if err != nil && (!errors.Is(err, dr.ErrConflict) || n >= tries) || ctx.Err() != nil {
			return fmt.Errorf("%s %s: %w", op, resource, errors.Join(err, ctx.Err()))
		}
		if err := pause(ctx, n); err != nil {
			return fmt.Errorf("%s %s: %w", op, resource, err)
		}
	}
}

// tryChange is one go. It is done if edit has answered, with edit's error.
func (c *Claims) tryChange(ctx context.Context, name, resource string, edit func(*record) (bool, error)) (done bool, err error) {
	r, version, err := c.load(ctx, name, resource)
	if err != nil {
		return false, err
	}
	with := comparison{name, version}
	doubted := c.doubted(with)
	changed, err := edit(r)
	if err != nil && !doubted {
		return true, err
	}
	if !changed && !doubted {
		return true, nil
	}
	// With a doubt it is written in any case: what is on its way compares with
	// the version that is replaced here.
	answer := err
	r.Epoch = max(r.Epoch, 1) // of a claim that isn't there: one is wasted
	data, err := r.encode(c.now())
	if err != nil {
		return true, err
	}
	err = c.heads.swap(ctx, name, version, data)
	switch {
	case err == nil:
		c.settled(with)
		return true, answer
	case errors.Is(err, dr.ErrConflict):
		c.settled(with) // the version that was compared with is gone
		return false, err
	}
	c.doubts(with)
	return c.readBack(ctx, with, resource, r.Nonce, data, answer, err)
}

// readBack finds out what became of a swap that failed with cause. If it had no
// effect yet it is made again against the same version, of which only one of
// the two can win.
func (c *Claims) readBack(ctx context.Context, with comparison, resource, nonce string, data []byte, answer, cause error) (done bool, err error) {
	for again := range 2 {
		r, now, err := c.load(ctx, with.name, resource)
		if err != nil {
			return false, errors.Join(cause, err)
		}
		switch {
		case r.Nonce == nonce:
			c.settled(with)
			return true, answer
		case now != with.version:
			c.settled(with)
			return false, fmt.Errorf("%w: %w", dr.ErrConflict, cause)
		case again == 1:
			return false, cause
		}
		if err := c.heads.swap(ctx, with.name, with.version, data); err == nil {
			c.settled(with)
			return true, answer
		}
	}
	return false, cause
}

func (c *Claims) load(ctx context.Context, name, resource string) (*record, string, error) {
	data, version, err := c.heads.read(ctx, name)
	if err != nil {
		return nil, "", err
	}
	if version == "" {
		return &record{Resource: resource}, "", nil
	}
	r, err := parse(name, resource, data)
	return r, version, err
}

func (c *Claims) object(resource string) (string, error) {
	if resource == "" {
		return "", fmt.Errorf("%w: a claim of nothing: the resource must be named", dr.ErrInvalid)
	}
	return c.prefix + objectName(resource), nil
}

func (c *Claims) doubted(with comparison) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.doubt[with]
}

func (c *Claims) doubts(with comparison) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doubt[with] = true
}

func (c *Claims) settled(with comparison) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.doubt, with)
}

func busy(resource string, r *record) error {
	return fmt.Errorf("%s: %w: held by %s", resource, dr.ErrBusy, r.Owner)
}

// pause waits a random time, which grows up to a quarter of a second.
func pause(ctx context.Context, n int) error {
	most := min(250*time.Millisecond, time.Millisecond<<min(n, 10))
	t := time.NewTimer(mathrand.N(most) + 1)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// give makes owner the holder under an epoch that was never given before.
func (r *record) give(owner string, epoch uint64) error {
	if epoch >= math.MaxInt64 || epoch < r.Epoch {
		return dr.Permanent(fmt.Errorf("%s: %w: its epochs are used up at %d", r.Resource, dr.ErrInvalid, r.Epoch))
	}
	r.Owner, r.Epoch, r.Last, r.Seizure, r.Since = owner, epoch, "", "", time.Time{}
	return nil
}

// free gives the claim back.
func (r *record) free() {
	r.Owner, r.Last, r.Seizure, r.Since = "", r.Owner, "", time.Time{}
}
