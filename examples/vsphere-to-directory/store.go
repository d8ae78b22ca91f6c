package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

const (
	envFile   = "LIFEBOAT_PASSPHRASE_FILE"
	envPhrase = "LIFEBOAT_PASSPHRASE"
)

type storeOptions struct {
	dir            string
	passphraseFile string
}

func (o *storeOptions) flags(fs *flag.FlagSet) {
	fs.StringVar(&o.dir, "store", "", "")
	fs.StringVar(&o.passphraseFile, "passphrase-file", "", "")
}

// open opens the folder, or makes it.
func (o *storeOptions) open() (*vault.Store, error) {
	phrase, err := o.passphrase()
	if err != nil {
		return nil, err
	}
	var v vault.Options
	if phrase != nil {
		v.Keys = vault.Passphrase(phrase)
	}
	s, err := vault.OpenDir(o.dir, v)
	switch {
	case errors.Is(err, vault.ErrWrongKey) && phrase == nil:
		return nil, fmt.Errorf("store %s is encrypted: give its passphrase with --passphrase-file or $%s: %w", o.dir, envFile, vault.ErrWrongKey)
	case err != nil:
		return nil, fmt.Errorf("store %s: %w", o.dir, err)
	}
	return s, nil
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

// occupied is how many bytes the folder's files have.
func (o *storeOptions) occupied() (n int64) {
	// Files come and go meanwhile; what can't be seen isn't counted.
	_ = filepath.WalkDir(o.dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
