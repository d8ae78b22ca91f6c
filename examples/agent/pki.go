package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/remote/trialpki"
)

// makePKI writes an authority's certificate, a server's and a client's, good for
// a year. The authority's key is not kept: nobody can sign another one with it.
func makePKI(args []string, out io.Writer) error {
	var dir string
	var hosts []string
	f := flag.NewFlagSet("pki", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&dir, "dir", "", "")
	f.Func("host", "", func(s string) error { hosts = append(hosts, s); return nil })
	if err := f.Parse(args); err != nil {
		return wrongUsage("%v", err)
	}
	if dir == "" || len(hosts) == 0 || f.NArg() > 0 {
		return wrongUsage("pki wants --dir, and with --host each name and address under which the agent is reached")
	}
	ca, err := trialpki.New("lifeboat trial", 365*24*time.Hour)
	if err != nil {
		return err
	}
	server, err := ca.Server("agent", hosts...)
	if err != nil {
		return err
	}
	client, err := ca.Client("replicator")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		data []byte
	}{
		{"ca.pem", ca.PEM()}, {"server.pem", server.Cert}, {"server.key", server.Key}, {"client.pem", client.Cert}, {"client.key", client.Key},
	} {
		path := filepath.Join(dir, file.name)
		// What is in use is not overwritten.
		w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = w.Write(file.data)
		if e := w.Close(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(out, path)
	}
	return nil
}
