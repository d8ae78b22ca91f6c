package vmware

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// frozen is what guestfreeze.sh has said so far.
type frozen struct {
	pid     int64    // of the process that holds the freeze
	froze   []string // "ext4 /var", with \040 for spaces as /proc/self/mountinfo has them
	synced  []string // the same, of what can't be frozen
	hooks   int      // programs that were run before the freeze
	failed  []string // hooks that failed, before or after it
	holding bool     // the time that it may stay frozen has begun
	done    bool     // everything is frozen
	why     string   // the reason why not
	asked   bool     // it was asked to thaw
	over    bool     // it thawed by itself, its time was over
	thawed  bool     // everything is over
}

// maxFrozen bounds what is believed of what a guest lists.
const maxFrozen = 4096

// parseFrozen reads it. A last line without its end is not there yet. A guest
// that says anything else than the script does is an error.
func parseFrozen(p []byte) (frozen, error) {
	var f frozen
	end := bytes.LastIndexByte(p, '\n')
	if end < 0 {
		return f, nil
	}
	for i, line := range strings.Split(string(p[:end]), "\n") {
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case i == 0 && line == "lifeboat-freeze 1":
		case i == 0 || i > maxFrozen:
			return f, fmt.Errorf("%w: the guest says %q", dr.ErrInvalid, oneLine(line))
		case word == "pid" && f.pid == 0 && number(rest) != 0:
			f.pid = number(rest)
		case word == "froze" && !f.done:
			f.froze = append(f.froze, oneLine(rest))
		case word == "synced" && !f.done:
			f.synced = append(f.synced, oneLine(rest))
		case line == "holding":
			f.holding = true
		case word == "hook":
			if err := f.hook(rest); err != nil {
				return f, err
			}
		case line == "frozen" && f.why == "" && !f.asked && !f.over:
			f.done = true
		case word == "failed" && rest != "":
			f.why = oneLine(rest)
		case line == "asked":
			f.asked = true
		case line == "over":
			f.over = true
		case line == "thawed":
			f.thawed = true
		default:
			return f, fmt.Errorf("%w: the guest says %q", dr.ErrInvalid, oneLine(line))
		}
	}
	return f, nil
}

// hook reads "freeze 0 10-database".
func (f *frozen) hook(s string) error {
	part := strings.Split(s, " ")
	if len(part) != 3 || part[0] != "freeze" && part[0] != "thaw" {
		return fmt.Errorf("%w: the guest says of a hook %q", dr.ErrInvalid, oneLine(s))
	}
	if part[0] == "freeze" {
		f.hooks++
	}
	if part[1] != "0" {
		f.failed = append(f.failed, oneLine(strings.Join(part, " ")))
	}
	return nil
}

// early tells whether the script gave up before there was anything to thaw.
func (f *frozen) early() bool {
	switch word, _, _ := strings.Cut(f.why, " "); word {
	case "root", "memory", "program", "pipe":
		return true
	}
	return false
}

// got is what was reached: of applications, only where hooks asked them.
func (f *frozen) got(want dr.Consistency) dr.Consistency {
	reached := dr.FileSystemConsistent
	if f.hooks > 0 && len(f.failed) == 0 {
		reached = dr.ApplicationConsistent
	}
	return min(max(want, dr.CrashConsistent), reached)
}

// loose lists what can still be written although everything else is frozen.
// The partitions that firmware boots from are FAT, which can't be frozen and
// which nobody writes but when a kernel is installed.
func (f *frozen) loose() []string {
	return slices.DeleteFunc(slices.Clone(f.synced), func(s string) bool {
		kind, at, _ := strings.Cut(s, " ")
		return (kind == "vfat" || kind == "msdos") && (at == "/boot" || at == "/efi" || strings.HasPrefix(at, "/boot/"))
	})
}

// reason makes a failure of the script an error.
func (f *frozen) reason() error {
	word, rest, _ := strings.Cut(f.why, " ")
	switch word {
	case "root":
		return &explained{fmt.Errorf("%w: only root may freeze file systems", dr.ErrUnsupported), "let Options.GuestAuth log in as root"}
	case "memory":
		return &explained{fmt.Errorf("%w: the guest has no folder in memory (/dev/shm, /run)", dr.ErrUnsupported), ""}
	case "program":
		return &explained{fmt.Errorf("%w: the guest has no program %s", dr.ErrUnsupported, rest), "install util-linux and coreutils in the guest"}
	case "busy":
		return &explained{fmt.Errorf("%w: somebody else has frozen %s", dr.ErrBusy, rest), "wait until the other backup is over; fsfreeze -u thaws what a dead one has left"}
	case "slow":
		return &explained{fmt.Errorf("%w: the hooks took longer than %s", dr.ErrNotConsistent, hookLimit), "look at the programs in freeze.d"}
	}
	return fmt.Errorf("%w: the guest could not %s", dr.ErrNotConsistent, f.why)
}
