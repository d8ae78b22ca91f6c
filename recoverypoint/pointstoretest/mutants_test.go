package pointstoretest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

const anyHistory = "random histories"

// mutants are stores with one lie each, and the promise that it breaks.
var mutants = []struct {
	name     string
	lie      func(l *liar)
	caughtBy string
}{
	{"forgets a write", func(l *liar) {
		l.drafts(func(d *draftLie, _ dr.Point) {
			d.write = func(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
				if len(p) == 2 {
					return 2, nil
				}
				return d.Draft.WriteAt(ctx, id, p, off)
			}
		})
	}, "sizes and offsets need no alignment"},

	{"keeps the caller's buffer", func(l *liar) {
		l.drafts(func(d *draftLie, _ dr.Point) {
			var late []func() error
			d.write = func(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
				late = append(late, func() error { _, err := d.Draft.WriteAt(ctx, id, p, off); return err })
				return len(p), nil
			}
			d.commit = func(ctx context.Context, p dr.Point) error {
				for _, f := range late {
					if err := f(); err != nil {
						return err
					}
				}
				late = nil
				return d.Draft.Commit(ctx, p)
			}
		})
	}, "a buffer is the caller's again after WriteAt"},

	{"lists what is not committed", func(l *liar) {
		l.list = func(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
			return func(yield func(dr.Point, error) bool) {
				for _, seq := range []iter.Seq2[dr.Point, error]{l.Store.List(ctx, m), l.Pending(ctx, m)} {
					for p, err := range seq {
						if !yield(p, err) {
							return
						}
					}
				}
			}
		}
	}, "nothing is visible before Commit"},

	{"commits on Close", func(l *liar) {
		l.drafts(func(d *draftLie, p dr.Point) {
			d.close = func() error { _ = d.Draft.Commit(context.Background(), p); return d.Draft.Close() }
		})
	}, "Close without Commit leaves no point"},

	{"publishes a Commit that it calls failed", func(l *liar) {
		l.drafts(func(d *draftLie, _ dr.Point) {
			d.commit = func(ctx context.Context, p dr.Point) error {
				return errors.Join(d.Draft.Commit(context.WithoutCancel(ctx), p), ctx.Err())
			}
		})
	}, "a Commit that failed can be repeated"},

	{"keeps the time that Create was given", func(l *liar) {
		l.drafts(func(d *draftLie, created dr.Point) {
			d.commit = func(ctx context.Context, p dr.Point) error {
				p.Time = created.Time
				return d.Draft.Commit(ctx, p)
			}
		})
	}, "a point is what Create and Commit were given"},

	{"forgets what kind of changes they were", func(l *liar) {
		l.drafts(func(d *draftLie, _ dr.Point) {
			d.commit = func(ctx context.Context, p dr.Point) error {
				p.Changes = dr.ChangeStats{}
				return d.Draft.Commit(ctx, p)
			}
		})
	}, "a point is what Create and Commit were given"},

	{"lists by name", func(l *liar) {
		l.list = func(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
			return func(yield func(dr.Point, error) bool) {
				var all []dr.Point
				for p := range l.Store.List(ctx, m) {
					all = append(all, p)
				}
				slices.SortFunc(all, func(a, b dr.Point) int { return strings.Compare(string(a.ID), string(b.ID)) })
				for _, p := range all {
					if !yield(p, nil) {
						return
					}
				}
			}
		}
	}, "points are listed in the order of their commits"},

	{"shows the caller its own maps", func(l *liar) {
		shared := map[dr.PointID]dr.Point{}
		l.list = func(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
			return func(yield func(dr.Point, error) bool) {
				for p, err := range l.Store.List(ctx, m) {
					if _, ok := shared[p.ID]; !ok {
						shared[p.ID] = p
					}
					if !yield(shared[p.ID], err) {
						return
					}
				}
			}
		}
	}, "what the caller holds is the caller's"},

	{"takes a second draft", func(l *liar) {
		l.create = func(ctx context.Context, p dr.Point) (dr.Draft, error) {
			d, err := l.Store.Create(ctx, p)
			if errors.Is(err, dr.ErrBusy) {
				p.Machine.ID += "-second"
				return l.Store.Create(ctx, p)
			}
			return d, err
		}
	}, "a machine has one draft at a time"},

	{"takes any point of a known name for the same", func(l *liar) {
		l.create = func(ctx context.Context, p dr.Point) (dr.Draft, error) {
			for q := range l.Store.List(ctx, p.Machine.ID) {
				if q.ID == p.ID {
					return l.Store.Create(ctx, q)
				}
			}
			return l.Store.Create(ctx, p)
		}
	}, "Create of a committed ID for another moment is ErrExists"},

	{"resumes a draft of another moment", func(l *liar) {
		l.create = func(ctx context.Context, p dr.Point) (dr.Draft, error) {
			for q := range l.Pending(ctx, p.Machine.ID) {
				if q.ID == p.ID {
					return l.Store.Create(ctx, q)
				}
			}
			return l.Store.Create(ctx, p)
		}
	}, "a draft of another moment is thrown away"},

	{"calls all durable where something is", func(l *liar) {
		l.drafts(func(d *draftLie, p dr.Point) {
			durable := l.extents(func(ctx context.Context, id dr.DiskID, _ dr.Point) iter.Seq2[dr.Extent, error] {
				return d.Draft.(dr.Resumer).Durable(ctx, id)
			}, func(all []dr.Extent) []dr.Extent {
				if len(all) > 1 {
					all = []dr.Extent{{Off: all[0].Off, Len: all[len(all)-1].End() - all[0].Off}}
				}
				return all
			})
			d.durable = func(ctx context.Context, id dr.DiskID) iter.Seq2[dr.Extent, error] { return durable(ctx, id, p) }
		})
	}, "an interrupted draft goes on where it was"},

	{"ignores the parent", func(l *liar) {
		l.create = func(ctx context.Context, p dr.Point) (dr.Draft, error) {
			p.Parent = ""
			return l.Store.Create(ctx, p)
		}
	}, "a draft starts as the content of its parent"},

	{"leaves rubbish where a disk grew", func(l *liar) {
		l.create = func(ctx context.Context, p dr.Point) (dr.Draft, error) {
			d, err := l.Store.Create(ctx, p)
			if err != nil || p.Parent == "" {
				return d, err
			}
			for q := range l.Store.List(ctx, p.Machine.ID) {
				for _, disk := range p.Machine.Disks {
					if old, ok := q.Machine.Disk(disk.ID); ok && q.ID == p.Parent && old.Size < disk.Size {
						_, err = d.WriteAt(ctx, disk.ID, []byte{0xee}, old.Size)
					}
				}
			}
			return d, err
		}
	}, "disks grow and shrink, come and go"},

	{"cuts a write at the end of the disk", func(l *liar) {
		l.drafts(func(d *draftLie, p dr.Point) {
			d.write = func(ctx context.Context, id dr.DiskID, b []byte, off int64) (int, error) {
				disk, _ := p.Machine.Disk(id)
				if fits := max(0, disk.Size-off); disk.Size > 0 && fits < int64(len(b)) {
					_, err := d.Draft.WriteAt(ctx, id, b[:fits], min(off, disk.Size))
					return len(b), err
				}
				return d.Draft.WriteAt(ctx, id, b, off)
			}
		})
	}, "writing beyond the end is refused and writes nothing"},

	{"zeroes whole blocks only", func(l *liar) {
		l.drafts(func(d *draftLie, _ dr.Point) {
			d.zero = func(ctx context.Context, id dr.DiskID, off, n int64) error {
				if n < block {
					return nil
				}
				return d.Draft.(dr.Zeroer).Zero(ctx, id, off, n)
			}
		})
	}, "Zero makes zeros, of any part"},

	{"sums the last block as if it were a whole one", func(l *liar) {
		l.images(func(i *imageLie) {
			i.Summer = summing(func(ctx context.Context, id dr.DiskID, off int64, s []dr.Sum) error {
				for n := range s {
					b := make([]byte, block)
					if _, err := i.Image.ReadAt(ctx, id, b, off+int64(n)*block); err != nil && !errors.Is(err, io.EOF) {
						return err
					}
					s[n] = blocksum.Sum(b)
				}
				return nil
			})
		})
	}, "sums of an image are those of its bytes"},

	{"sums what the draft began with", func(l *liar) {
		l.drafts(func(d *draftLie, p dr.Point) {
			first := map[dr.DiskID][]dr.Sum{}
			for _, disk := range p.Machine.Disks {
				first[disk.ID] = make([]dr.Sum, (disk.Size+block-1)/block)
				_ = d.Draft.(dr.Summer).Sums(context.Background(), disk.ID, 0, first[disk.ID])
			}
			d.sums = func(_ context.Context, id dr.DiskID, off int64, s []dr.Sum) error {
				copy(s, first[id][off/block:])
				return nil
			}
		})
	}, "sums of a draft are of its present content"},

	{"loses a change", func(l *liar) {
		l.images(func(i *imageLie) {
			i.changes = l.extents(i.changes, func(all []dr.Extent) []dr.Extent { return all[:max(0, len(all)-1)] })
		})
	}, "Changes cover all that differs, between any two points"},

	{"tells zeros where there is data", func(l *liar) {
		l.images(func(i *imageLie) {
			i.changes = l.extents(i.changes, func(all []dr.Extent) []dr.Extent {
				for n := range all {
					all[n].Zero = true
				}
				return all
			})
		})
	}, "Changes cover all that differs, between any two points"},

	{"tells no changes since what it doesn't know", func(l *liar) {
		l.images(func(i *imageLie) {
			changes := i.changes
			i.changes = func(ctx context.Context, id dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
				return func(yield func(dr.Extent, error) bool) {
					for e, err := range changes(ctx, id, since) {
						if errors.Is(err, dr.ErrChangesLost) || !yield(e, err) {
							return
						}
					}
				}
			}
		})
	}, "Changes since a point that the store never had are lost"},

	{"takes a name that was given again for the point that had it first", func(l *liar) {
		l.images(func(i *imageLie) {
			changes := i.changes
			i.changes = func(ctx context.Context, id dr.DiskID, since dr.Point) iter.Seq2[dr.Extent, error] {
				since.Time = time.Time{}
				return changes(ctx, id, since)
			}
		})
	}, "Changes since a point whose name was given again are not told as of the new one"},

	{"deletes the children too", func(l *liar) {
		l.delete = func(ctx context.Context, m dr.MachineID, id dr.PointID) error {
			for p := range l.Store.List(ctx, m) {
				if p.Parent == id {
					_ = l.Store.Delete(ctx, m, p.ID)
				}
			}
			return l.Store.Delete(ctx, m, id)
		}
	}, "Delete removes one point and no other"},

	{"keeps the drafts of points that are deleted", func(l *liar) {
		l.delete = func(ctx context.Context, m dr.MachineID, id dr.PointID) error {
			for p := range l.Store.List(ctx, m) {
				if p.ID == id {
					return l.Store.Delete(ctx, m, id)
				}
			}
			return ctx.Err()
		}
	}, "Delete throws an interrupted draft away"},

	{"takes a point from under its readers", func(l *liar) {
		l.images(func(i *imageLie) {
			i.read = func(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
				if _, err := l.Store.Open(ctx, i.Point().Machine.ID, i.Point().ID); err != nil {
					return 0, err
				}
				return i.Image.ReadAt(ctx, id, p, off)
			}
		})
	}, "an open image survives Delete and Prune"},

	{"mixes machines whose names differ in case", func(l *liar) {
		lower := func(m dr.MachineID) dr.MachineID { return dr.MachineID(strings.ToLower(string(m))) }
		l.create = func(ctx context.Context, p dr.Point) (dr.Draft, error) {
			p.Machine.ID = lower(p.Machine.ID)
			return l.Store.Create(ctx, p)
		}
		l.open = func(ctx context.Context, m dr.MachineID, id dr.PointID) (dr.Image, error) {
			return l.Store.Open(ctx, lower(m), id)
		}
		l.list = func(ctx context.Context, m dr.MachineID) iter.Seq2[dr.Point, error] {
			return l.Store.List(ctx, lower(m))
		}
	}, "machines don't mix"},

	{"makes a name of anything", func(l *liar) {
		l.create = func(ctx context.Context, p dr.Point) (dr.Draft, error) {
			if p.ID.Validate() != nil {
				p.ID = "cleaned"
			}
			return l.Store.Create(ctx, p)
		}
	}, "names that could escape are refused"},

	{"goes on after its context ended", func(l *liar) {
		l.images(func(i *imageLie) {
			i.read = func(ctx context.Context, id dr.DiskID, p []byte, off int64) (int, error) {
				return i.Image.ReadAt(context.WithoutCancel(ctx), id, p, off)
			}
		})
	}, "a context that has ended stops every call"},

	{"loses the last commit in a crash", func(l *liar) {
		l.crash = func() {
			l.Store.Crash()
			var last dr.PointID
			for p := range l.Store.List(context.Background(), "m") {
				last = p.ID
			}
			_ = l.Store.Delete(context.Background(), "m", last)
		}
	}, "what is committed outlives a crash, and drafts don't block"},

	{"is blocked by drafts of processes that died", func(l *liar) {
		l.crash = func() {}
	}, "what is committed outlives a crash, and drafts don't block"},

	{"takes the parent's bytes for newer when it is interrupted twice", func(l *liar) {
		begun := map[string]int{}
		l.create = func(ctx context.Context, p dr.Point) (dr.Draft, error) {
			d, err := l.Store.Create(ctx, p)
			moment := fmt.Sprint(p.Machine.ID, p.ID, p.Time)
			if begun[moment]++; err != nil || begun[moment] != 3 {
				return d, err
			}
			parent, err := l.Store.Open(ctx, p.Machine.ID, p.Parent)
			if err != nil {
				return d, nil
			}
			for _, disk := range p.Machine.Disks {
				for e := range d.(dr.Resumer).Durable(ctx, disk.ID) {
					b := make([]byte, e.Len)
					n, _ := parent.ReadAt(ctx, disk.ID, b, e.Off)
					_, _ = d.WriteAt(ctx, disk.ID, b[:n], e.Off)
					break
				}
			}
			return d, nil
		}
	}, anyHistory},

	{"ignores the parent now and then", func(l *liar) {
		n := 0
		l.create = func(ctx context.Context, p dr.Point) (dr.Draft, error) {
			d, err := l.Store.Create(ctx, p)
			if n++; err == nil && n > 6 && p.Parent != "" {
				for _, disk := range p.Machine.Disks {
					_ = d.(dr.Zeroer).Zero(ctx, disk.ID, 0, min(disk.Size, 10))
				}
			}
			return d, err
		}
	}, anyHistory},
}

// check runs one promise, or a few histories, on new liars of a kind.
func check(t testing.TB, name string, lie func(*liar)) (failures []string) {
	run := func(f func(*kit)) []string {
		return observe(t, func(tb testing.TB) {
			l := newLiar()
			lie(l)
			f(newKit(tb, l.harness()))
		})
	}
	if name == anyHistory {
		for seed := range uint64(20) {
			failures = append(failures, run(func(k *kit) { history(k, seed) })...)
		}
		return failures
	}
	for _, p := range promises() {
		if p.name == name {
			return run(p.check)
		}
	}
	return nil
}

func TestTheSuiteRejectsLiars(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			failures := check(t, m.caughtBy, m.lie)
			require.NotEmpty(t, failures, "not caught by %q", m.caughtBy)
			t.Log(failures[0])
			require.NotContains(t, failures[0], "panic")
		})
	}
}

// Without a lie the same wrappers pass: it is the lies that are caught.
func TestTheSuiteAcceptsAnHonestStore(t *testing.T) {
	honest := func(l *liar) {
		l.drafts(func(*draftLie, dr.Point) {})
		l.images(func(*imageLie) {})
	}
	for _, name := range append([]string{anyHistory}, names()...) {
		require.Empty(t, check(t, name, honest), name)
	}
}

func names() (all []string) {
	for _, p := range promises() {
		all = append(all, p.name)
	}
	return all
}

func TestPromisesHaveNamesOfTheirOwn(t *testing.T) {
	all := names()
	slices.Sort(all)
	require.Equal(t, all, slices.Compact(slices.Clone(all)))
}
