package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

const (
	envFile   = "LIFEBOAT_PASSPHRASE_FILE"
	envPhrase = "LIFEBOAT_PASSPHRASE"
)

// storeOptions are the options of all commands.
type storeOptions struct {
	dir            string
	passphraseFile string
}

func (o *storeOptions) flags(fs *flag.FlagSet) {
	fs.StringVar(&o.dir, "store", "", "")
	fs.StringVar(&o.passphraseFile, "passphrase-file", "", "")
}

// open opens the store, or makes it if it may be new.
func (o *storeOptions) open(mayBeNew bool, v vault.Options) (*vault.Store, error) {
	phrase, err := o.passphrase()
	if err != nil {
		return nil, err
	}
	if phrase != nil {
		v.Keys = vault.Passphrase(phrase)
	}
	v.Existing = !mayBeNew
	s, err := vault.OpenDir(o.dir, v)
	if err != nil {
		return nil, o.explain(err, phrase != nil)
	}
	if phrase != nil {
		debug.FreeOSMemory() // the 64 MiB that made the key
	}
	return s, nil
}

// explain says in this command's terms why the store didn't open.
func (o *storeOptions) explain(err error, given bool) error {
	switch {
	case errors.Is(err, dr.ErrNotFound):
		return fmt.Errorf("%w in %s: check --store; vault add makes one", errNoStore, o.dir)
	case errors.Is(err, vault.ErrWrongKey) && !given:
		return fmt.Errorf("store %s is encrypted: give its passphrase with --passphrase-file or $%s: %w", o.dir, envFile, vault.ErrWrongKey)
	}
	return fmt.Errorf("store %s: %w", o.dir, err)
}

// passphrase returns nil if none is given. What the command line names counts
// before the environment, and files before a phrase.
func (o *storeOptions) passphrase() ([]byte, error) {
	file := o.passphraseFile
	if file == "" {
		file = os.Getenv(envFile)
	}
	if file == "" {
		phrase, ok := os.LookupEnv(envPhrase)
		if !ok {
			return nil, nil
		}
		if phrase == "" {
			return nil, wrongUsage("$%s is set and empty: unset it for a store without a passphrase", envPhrase)
		}
		return []byte(phrase), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return nil, fmt.Errorf("read the passphrase: %w", &fs.PathError{Op: "read", Path: file, Err: errors.New("the file is empty")})
	}
	return b, nil
}

// pointOptions choose a point of a machine.
type pointOptions struct {
	storeOptions
	machine string
	point   string
}

func (o *pointOptions) flags(fs *flag.FlagSet) {
	o.storeOptions.flags(fs)
	fs.StringVar(&o.machine, "machine", "", "")
	fs.StringVar(&o.point, "point", "latest", "")
}

// openPoint opens the chosen point.
func (o *pointOptions) openPoint(ctx context.Context, s *vault.Store) (dr.Image, error) {
	m := dr.MachineID(o.machine)
	id := dr.PointID(o.point)
	if o.point == "latest" {
		last, err := newest(ctx, s, m)
		if err != nil {
			return nil, err
		}
		if last.ID == "" {
			return nil, noPoints(ctx, s, m)
		}
		id = last.ID
	}
	return s.Open(ctx, m, id)
}

// newest returns the machine's last point; without an ID there is none.
func newest(ctx context.Context, s *vault.Store, m dr.MachineID) (last dr.Point, err error) {
	for p, err := range s.List(ctx, m) {
		if err != nil {
			return dr.Point{}, err
		}
		last = p
	}
	return last, nil
}

// noPoints says which machines there are: most often the name is mistyped.
func noPoints(ctx context.Context, s *vault.Store, m dr.MachineID) error {
	var known []string
	for id, err := range s.Machines(ctx) {
		if err != nil {
			return err
		}
		known = append(known, string(id))
	}
	hint := "the store has no machines yet"
	if known != nil {
		hint = "the store knows " + strings.Join(known, ", ")
	}
	return fmt.Errorf("machine %s: %w: %s", m, dr.ErrNoPoint, hint)
}
