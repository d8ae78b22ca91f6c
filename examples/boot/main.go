// Command boot proves a recovery by booting what was recovered. A machine with a
// small Linux on a bootable disk runs in QEMU at one site, and counts: every
// number is on its disk before it is given away. An agent serves its disk, and
// what it writes is replicated to a vault at another site while it runs. The
// site is killed with -9. Then its last recovery point boots from the vault as it
// lies there, in a network that leads nowhere, and tells which number it has; it
// is failed over, and comes home when there is a home again.
//
// Nothing is needed but QEMU and Debian's packages for the small Linux: no cloud,
// no root, no hardware acceleration.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/lifeboat-dr/lifeboat/dr"
)

type settings struct {
	dir      string
	firmware dr.Firmware
	points   int
	keep     bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == siteCommand {
		exit(serveSite(os.Args[2:], os.Stdout))
		return
	}
	var s settings
	flag.StringVar(&s.dir, "dir", filepath.Join(".cache", "boot"), "folder for the two sites; it must not exist")
	flag.StringVar((*string)(&s.firmware), "firmware", string(dr.BIOS), "what the machine boots under: bios or uefi")
	flag.IntVar(&s.points, "points", 4, "recovery points before the site is lost")
	flag.BoolVar(&s.keep, "keep", false, "keep the folder, with the vault and the screenshots")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, s, os.Stdout))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "boot:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings, out *os.File) (err error) {
	if s.points < 2 || s.firmware != dr.BIOS && s.firmware != dr.UEFI {
		return errors.New("want two points or more, and bios or uefi")
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return err
	}
	if err := os.Mkdir(s.dir, 0o711); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(s.dir), 0o755); err == nil {
				err = os.Mkdir(s.dir, 0o711)
			}
		}
		if err != nil {
			return fmt.Errorf("%w (an earlier run may have left it: delete it, or name another with -dir)", err)
		}
	}
	if !s.keep {
		defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	}
	w, err := open(ctx, s, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	return w.tell(ctx)
}
