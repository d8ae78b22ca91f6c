package offline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/guestfs"
)

// Options bound an inspection. The zero value is ready to use.
type Options struct {
	// MaxRead is how many bytes may be read of the image; 0 is 2 GiB. What
	// can't be told within is unknown.
	MaxRead int64
	// Timeout ends the inspection; 0 is two minutes.
	Timeout time.Duration
	// Done, if not nil, is told at the end how many bytes were read.
	Done func(read int64)
}

// Inspect tells what can be known of the system installed on an image's
// disks. It returns an error only if nothing at all could be learnt: ctx
// ended, no disk can be read, or there is no system of a known kind: then it
// wraps dr.ErrUnsupported, and Facts.Unknown says what was found instead. It
// writes nothing. The image stays open.
func Inspect(ctx context.Context, img dr.Image, o Options) (facts backend.Facts, err error) {
	if o.MaxRead == 0 {
		o.MaxRead = 2 << 30
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	ctx, stop := context.WithTimeout(ctx, o.Timeout)
	defer stop()
	b := &budget{left: o.MaxRead}
	p := img.Point()
	facts = backend.Facts{From: "recovery point " + string(p.ID), At: p.Time}
	fail := func(err error) error {
		return &dr.Error{Op: "inspect", Side: dr.StoreSide, Machine: p.Machine.ID, Point: p.ID, Err: err}
	}
	defer func() {
		if o.Done != nil {
			o.Done(b.read)
		}
		if r := recover(); r != nil {
			facts = backend.Facts{From: facts.From, At: facts.At, Unknown: facts.Unknown}
			err = fail(fmt.Errorf("%w: a reader failed: %v", dr.ErrCorrupt, r))
		}
	}()
	systems, err := find(ctx, img, b)
	if err != nil {
		return facts, err
	}
	g, how := install(systems)
	facts.Unknown = append(facts.Unknown, how...)
	if g == nil {
		if len(facts.Unknown) == 0 {
			facts.Unknown = []string{"the disks are empty"}
		}
		return facts, fail(fmt.Errorf("%w: no Linux or Windows was found: %s", dr.ErrUnsupported, strings.Join(facts.Unknown, "; ")))
	}
	g.ctx, g.facts, g.machine = ctx, &facts, p.Machine
	if facts.OS == "" {
		facts.OS = g.os
	}
	if g.os == "windows" {
		g.windows()
	} else {
		g.linux()
	}
	if err := ctx.Err(); err != nil {
		facts.Unknown = append(facts.Unknown, "the inspection was ended before everything was read: "+err.Error())
	}
	return facts, nil
}

// tree is where the system's files are: of a recovery point a *guestfs.Tree,
// else what [Running] was given.
type tree interface {
	fs.StatFS
	fs.ReadFileFS
	fs.ReadDirFS
	fs.ReadLinkFS
}

// guest is the system that is inspected.
type guest struct {
	ctx     context.Context
	os      string
	tree    tree
	facts   *backend.Facts
	machine dr.Machine
	systems []FileSystem
	note    string // of the file system that it lies on
}

// install finds the file system that a system is installed on, and says of
// the others what can't be told.
func install(systems []FileSystem) (*guest, []string) {
	var found []FileSystem
	var why, blank []string
	kinds := map[string]string{}
	for _, f := range systems {
		if f.Err != nil {
			switch {
			case f.blank:
				blank = append(blank, where(f)+f.Err.Error())
			case f.Kind != "swap" && f.Kind != "fat":
				why = append(why, where(f)+f.Err.Error())
			}
			continue
		}
		t := f.FS.(*guestfs.Tree)
		for _, s := range []struct{ os, file string }{
			{"windows", "Windows/System32/config/SYSTEM"}, {"linux", "etc/os-release"}, {"linux", "usr/lib/os-release"}, {"linux", "etc/fstab"}, {"linux", "etc/passwd"},
		} {
			_, err := t.Lstat(s.file)
			if err == nil {
				found, kinds[f.String()] = append(found, f), s.os
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				why = append(why, where(f)+err.Error())
				break
			}
		}
	}
	if len(found) == 0 {
		return nil, append(why, blank...)
	}
	f := found[0]
	if len(found) > 1 {
		why = append(why, fmt.Sprintf("there are %d systems: what is said is of the one on %s", len(found), f))
	}
	if f.Note != "" {
		why = append(why, where(f)+f.Note)
	}
	return &guest{os: kinds[f.String()], tree: guestfs.NewTree(f.vol), systems: systems, note: f.Note}, why
}

func where(f FileSystem) string {
	if f.Volume == "" {
		return ""
	}
	return f.String() + ": "
}

// unknown notes what can't be told.
func (g *guest) unknown(format string, args ...any) {
	if line := fmt.Sprintf(format, args...); !slices.Contains(g.facts.Unknown, line) {
		g.facts.Unknown = append(g.facts.Unknown, line)
	}
}

// fact makes an answer; one that isn't known is noted with its reason.
func (g *guest) fact(what string, a backend.Answer, format string, args ...any) backend.Fact {
	f := backend.Fact{Answer: a, Detail: fmt.Sprintf(format, args...)}
	if a == backend.Unknown {
		g.unknown("%s: %s", what, f.Detail)
	}
	return f
}

// maxText is the size in bytes up to which a configuration file is read.
const maxText = 4 << 20

// text reads a file; ok is false if there is none. A file that is there and
// can't be read is noted, and counts as none.
func (g *guest) text(name string) (string, bool) {
	in, err := g.tree.Stat(name)
	if err == nil && in.Size() > maxText {
		err = fmt.Errorf("%d bytes are too many for a configuration file", in.Size())
	}
	var b []byte
	if err == nil {
		b, err = g.tree.ReadFile(name)
	}
	if err != nil {
		g.failed(name, err)
		return "", false
	}
	return string(b), true
}

// failed notes an error, unless it says that there is nothing.
func (g *guest) failed(name string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.unknown("/%s: %v", name, err)
	}
}

// exists reports whether a path leads to something.
func (g *guest) exists(name string) bool {
	_, err := g.tree.Stat(name)
	g.failed(name, err)
	return err == nil
}

// glob lists the paths that match a pattern in a folder, in order.
func (g *guest) glob(dir, pattern string) []string {
	list, err := g.tree.ReadDir(dir)
	if err != nil {
		g.failed(dir, err)
		return nil
	}
	var names []string
	for _, e := range list {
		if ok, _ := path.Match(pattern, e.Name()); ok {
			names = append(names, path.Join(dir, e.Name()))
		}
	}
	return names
}

// lines of a configuration file, trimmed, without comments and empty ones.
func lines(text string) []string {
	var list []string
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' && l[0] != ';' {
			list = append(list, l)
		}
	}
	return list
}

// setting finds NAME=value or NAME = "value", the last one.
func setting(text, name string) (value string, ok bool) {
	for _, l := range lines(text) {
		if k, v, is := strings.Cut(l, "="); is && strings.EqualFold(strings.TrimSpace(k), name) {
			value, ok = strings.Trim(strings.TrimSpace(v), `"'`), true
		}
	}
	return value, ok
}
