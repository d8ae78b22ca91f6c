package temporal

import (
	"bytes"
	"context"
	"errors"
	"sync"
)

// keyFile is an API key in a file, read again when that changes.
type keyFile struct {
	path string
	once sync.Once
	file reread[string]
}

// read returns the key. Its errors name the file, never what is in it.
func (k *keyFile) read(context.Context) (string, error) {
	k.once.Do(func() {
		k.file = reread[string]{paths: []string{k.path}, parse: func(p [][]byte) (string, error) {
			key := bytes.TrimSpace(p[0])
			if len(key) == 0 || bytes.ContainsAny(key, " \t\r\n") {
				return "", errors.New("not one API key")
			}
			return string(key), nil
		}}
	})
	return k.file.get()
}
