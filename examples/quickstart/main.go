// Command quickstart takes a machine round the whole cycle of disaster
// recovery on this computer, without a cloud, a cluster or root: protect,
// drill, fail over, change the point, commit, reprotect, fail back, commit,
// reprotect. The machine has two disks, one with a real ext4 file system, and
// writes to both all the time; after every stage what was recovered is
// compared with what the machine had, by SHA-256 and e2fsck.
//
// Kill it at any moment, also with -9, and start it again: it goes on where it
// was. Its state is in the folder given by -dir.
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
)

func main() {
	dir := flag.String("dir", filepath.Join(".cache", "quickstart"), "folder for the two sites and the journal; kept until the cycle is complete")
	mib := flag.Int64("mib", 256, "size of the machine's first disk, in MiB; the second has a quarter")
	keep := flag.Bool("keep", false, "keep the folder when the cycle is complete")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *mib<<20, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, size int64, keep bool) (err error) {
	if err := os.RemoveAll(dir + leftName); err != nil { // one that was killed while it went
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, completeName)); err == nil { // an earlier run, kept
		if err := remove(dir); err != nil {
			return err
		}
	}
	w, err := open(dir, size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	rows, err := w.cycle(ctx)
	if err != nil {
		return fmt.Errorf("%w\n(state is kept in %s; start again to go on)", err, dir)
	}
	printTable(os.Stdout, rows)
	if err := os.WriteFile(filepath.Join(dir, completeName), nil, 0o600); err != nil || keep {
		return err
	}
	return remove(dir)
}

// remove takes the folder away as a whole first: one that is killed meanwhile
// must not leave a half of it, which would look damaged.
func remove(dir string) error {
	if err := os.Rename(dir, dir+leftName); err != nil {
		return err
	}
	return os.RemoveAll(dir + leftName)
}

const (
	completeName = "complete" // marks a folder whose cycle is complete
	leftName     = ".old"     // behind the name of one that is being removed
)
