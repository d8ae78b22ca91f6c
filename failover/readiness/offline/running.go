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
)

// Running tells what can be known of the Linux whose files are at root, which
// runs, or is mounted as if it did: the same facts as of a recovery point, and
// whether a restart is due. m names its cards. root must follow symbolic links
// as the guest would, implement fs.StatFS, fs.ReadFileFS, fs.ReadDirFS and
// fs.ReadLinkFS, and bound what ReadFile reads. Of o only Timeout counts.
//
// Facts.From and Facts.At are the caller's to say. The errors are those of
// [Inspect].
func Running(ctx context.Context, root fs.FS, m dr.Machine, o Options) (facts backend.Facts, err error) {
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	ctx, stop := context.WithTimeout(ctx, o.Timeout)
	defer stop()
	fail := func(err error) error { return &dr.Error{Op: "inspect", Machine: m.ID, Err: err} }
	files, ok := root.(tree)
	if !ok {
		return facts, fail(fmt.Errorf("%w: %T can't follow links or list folders", dr.ErrInvalid, root))
	}
	defer func() {
		if r := recover(); r != nil {
			facts, err = backend.Facts{Unknown: facts.Unknown}, fail(fmt.Errorf("%w: a reader failed: %v", dr.ErrCorrupt, r))
		}
	}()
	if err := ctx.Err(); err != nil {
		return facts, fail(err)
	}
	g := &guest{ctx: ctx, os: "linux", tree: files, facts: &facts, machine: m}
	if !g.exists("etc/os-release") && !g.exists("usr/lib/os-release") && !g.exists("etc/passwd") {
		return facts, fail(fmt.Errorf("%w: no Linux was found", dr.ErrUnsupported))
	}
	facts.OS = "linux"
	g.linux()
	g.restartDue()
	if err := ctx.Err(); err != nil {
		facts.Unknown = append(facts.Unknown, "the inspection was ended before everything was read: "+err.Error())
	}
	return facts, nil
}

// restartDue asks what a running Linux notes of updates. Debian and Ubuntu
// leave a file; elsewhere a kernel in /boot beside which another one runs says
// that a restart is due, and its absence says nothing of other packages.
func (g *guest) restartDue() {
	const what = "pending updates"
	const note = "run/reboot-required"
	for i, l := range g.facts.Unknown { // what linux said: that it can't be told from a disk
		if len(l) > len(what) && l[:len(what)+1] == what+":" {
			g.facts.Unknown = append(g.facts.Unknown[:i:i], g.facts.Unknown[i+1:]...)
			break
		}
	}
	if _, err := g.tree.Stat(note); err == nil {
		detail := "/" + note + " is there"
		if text, ok := g.text(note + ".pkgs"); ok {
			if n := len(lines(text)); n > 0 {
				detail += fmt.Sprintf(", of %d packages", n)
			}
		}
		g.facts.UpdatesPending = backend.Fact{Answer: backend.Yes, Detail: detail}
		return
	} else if !errors.Is(err, fs.ErrNotExist) {
		g.facts.UpdatesPending = g.fact(what, backend.Unknown, "/%s: %v", note, err)
		return
	}
	release, _ := g.text("proc/sys/kernel/osrelease")
	running := path.Base(firstLine(release))
	kernels := g.kernels()
	switch {
	case len(kernels) == 0:
		g.facts.UpdatesPending = g.fact(what, backend.Unknown, "there is no kernel in /boot to compare with, and /%s is not there", note)
	case g.exists("usr/lib/modules/"+running) || g.exists("lib/modules/"+running):
		if g.exists("var/lib/dpkg/status") && g.exists("etc/kernel/postinst.d/update-notifier") || g.exists("etc/kernel/postinst.d/unattended-upgrades") {
			g.facts.UpdatesPending = backend.Fact{Answer: backend.No, Detail: "/" + note + " is not there, and would be"}
			return
		}
		g.facts.UpdatesPending = g.fact(what, backend.Unknown, "kernel %s runs and is installed; nothing here notes a restart for other packages", running)
	default:
		g.facts.UpdatesPending = backend.Fact{Answer: backend.Yes, Detail: "kernel " + running + " runs, and is not installed any more"}
	}
}

// firstLine of a text, or all of it.
func firstLine(text string) string {
	for i := range len(text) {
		if text[i] == '\n' {
			return text[:i]
		}
	}
	return text
}

// Card is what a Linux' configuration says of a network card.
type Card struct {
	Name string // may be a pattern, such as "en*"; several with spaces between
	MAC  string // "" if it doesn't say
	DHCP bool
	From string // the file, without a leading slash
}

// Is reports whether the configuration is of the card of a name and address.
func (c Card) Is(name, mac string) bool {
	if c.MAC != "" {
		return strings.EqualFold(c.MAC, mac)
	}
	return slices.ContainsFunc(strings.Fields(c.Name), func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// Cards lists what the configuration of netplan, ifupdown, NetworkManager, the
// ifcfg files and networkd says of cards, and what of it can't be told. root is
// as for [Running].
func Cards(root fs.FS) (list []Card, unknown []string) {
	files, ok := root.(tree)
	if !ok {
		return nil, []string{fmt.Sprintf("%T can't follow links or list folders", root)}
	}
	g := &guest{os: "linux", tree: files, facts: &backend.Facts{}}
	defer func() {
		if r := recover(); r != nil {
			unknown = append(unknown, fmt.Sprintf("a reader failed: %v", r))
		}
	}()
	for _, c := range g.configured() {
		list = append(list, Card{c.name, c.mac, c.dhcp, c.from})
	}
	return list, g.facts.Unknown
}
