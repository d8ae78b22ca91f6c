package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/backend/remote/enrol"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/examples/worker/bucket"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/permachine"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/vault"
)

// place is what a kind knows of where its settings stand.
type place struct {
	folder string
	log    *slog.Logger
}

// path tells a path in the settings from their file's folder.
func (p place) path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(p.folder, name)
}

// Kinds of sites. A team adds its own here: a function that reads its settings
// and opens the platform or the store. A vCenter, for example:
//
//	"vmware": func(ctx context.Context, raw json.RawMessage, at place) (backend.Backend, io.Closer, error) {
//		var s struct{ Kind, URL, PasswordFile string }
//		if err := strict(raw, &s); err != nil {
//			return nil, nil, err
//		}
//		…
//		v, err := vmware.Open(ctx, vmware.Options{URL: u})
//		return v, closeFunc(func() error { return v.Close(context.Background()) }), err
//	},
var (
	machineKinds = map[string]func(context.Context, json.RawMessage, place) (backend.Backend, io.Closer, error){
		"agent":    openAgent,    // examples/agent, or "worker simulate", somewhere else
		"physical": openPhysical, // disks and image files of this host
	}
	pointKinds = map[string]func(context.Context, json.RawMessage, place) (recoverypoint.PointStore, io.Closer, error){
		"vault":     openVault,  // a folder
		"simulated": openBucket, // in the memory of a "worker simulate"
	}
)

// pair is how this worker shows who it is, and whom it believes.
type pair struct {
	Cert        string `json:"cert,omitempty"`
	Key         string `json:"key,omitempty"`
	Authorities string `json:"authorities,omitempty"`
}

func (p pair) tls(at place) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(at.path(p.Cert), at.path(p.Key))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(at.path(p.Authorities))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: %s holds no certificate of an authority", dr.ErrInvalid, p.Authorities)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
}

func openAgent(ctx context.Context, raw json.RawMessage, at place) (backend.Backend, io.Closer, error) {
	var s struct {
		Kind    string `json:"kind"`
		Address string `json:"address"`
		Links   int    `json:"links,omitempty"`
		// Identity is the folder of one that "agent enrol" made, as a client, in
		// place of the pair: it renews itself, and heeds what is revoked.
		Identity string `json:"identity,omitempty"`
		pair
	}
	if err := strict(raw, &s); err != nil {
		return nil, nil, err
	}
	if s.Address == "" {
		return nil, nil, missing("address")
	}
	// A step or a cycle that can't reach its site fails soon and is tried again:
	// it must not keep a place meanwhile.
	o := remote.DialOptions{Links: s.Links, Patience: 10 * time.Second, Log: at.log}
	fresh := closeFunc(func() error { return nil })
	switch {
	case s.Identity == "":
		if _, err := s.tls(at); err != nil {
			return nil, nil, err
		}
		o.GetTLS = func() (*tls.Config, error) { return s.tls(at) } // files that were replaced count from the next connection on
	case s.pair != (pair{}):
		return nil, nil, fmt.Errorf("%w: identity stands in place of cert, key and authorities", dr.ErrInvalid)
	default:
		id, err := enrol.OpenIdentity(at.path(s.Identity), enrol.IdentityOptions{Log: at.log})
		if err != nil {
			return nil, nil, err
		}
		o.GetTLS, o.Recheck, fresh = id.ClientTLS, id.Recheck, keepFresh(id)
	}
	c, err := remote.Dial(ctx, s.Address, o)
	if err != nil {
		return nil, nil, errors.Join(err, fresh.Close())
	}
	return c, closers{fresh, c}, nil
}

// keepFresh has an identity renewed until it is closed.
func keepFresh(id *enrol.Identity) closeFunc {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = id.Run(ctx) // which says in the log what fails
	}()
	return func() error {
		stop()
		<-ended
		return nil
	}
}

func openPhysical(_ context.Context, raw json.RawMessage, at place) (backend.Backend, io.Closer, error) {
	var s struct {
		Kind   string          `json:"kind"`
		Config physical.Config `json:"config"`
	}
	if err := strict(raw, &s); err != nil {
		return nil, nil, err
	}
	if s.Config.Root == "" {
		return nil, nil, missing("config.root")
	}
	s.Config.Root, s.Config.Log = at.path(s.Config.Root), at.log
	h, err := physical.Open(s.Config)
	if err != nil {
		return nil, nil, err
	}
	return h, h, nil
}

func openVault(_ context.Context, raw json.RawMessage, at place) (recoverypoint.PointStore, io.Closer, error) {
	var s struct {
		Kind   string `json:"kind"`
		Folder string `json:"folder"`
		// PassphraseFile holds what a new vault is encrypted with, and an
		// encrypted one opened.
		PassphraseFile string `json:"passphraseFile,omitempty"`
		// PerMachine keeps a vault for each machine in the folder, which several
		// workers need: one process at a time writes to a vault.
		PerMachine bool `json:"perMachine,omitempty"`
	}
	if err := strict(raw, &s); err != nil {
		return nil, nil, err
	}
	var o vault.Options
	if s.PassphraseFile != "" {
		phrase, err := readSecret(at.path(s.PassphraseFile))
		if err != nil {
			return nil, nil, err
		}
		o.Keys = vault.Passphrase(phrase)
	}
	if s.Folder == "" {
		return nil, nil, missing("folder")
	}
	root := at.path(s.Folder)
	if err := there(filepath.Dir(root)); err != nil {
		return nil, nil, err
	}
	if err := asItWas(root, s.PerMachine); err != nil {
		return nil, nil, err
	}
	if s.PerMachine {
		o.PageCache = pageCache
		v := permachine.New(permachine.Options{
			Open: func(_ context.Context, m dr.MachineID) (recoverypoint.PointStore, error) {
				if err := there(root); err != nil {
					return nil, err
				}
				return vault.OpenDir(filepath.Join(root, permachine.Name(m)), o)
			},
			Machines: func(context.Context) iter.Seq2[dr.MachineID, error] { return machinesIn(root) },
		})
		if err := os.Mkdir(root, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, nil, err
		}
		return probed{v, func(context.Context) error { return readable(root) }}, v, nil
	}
	v, err := vault.OpenDir(root, o)
	if err != nil {
		return nil, nil, err
	}
	return v, v, nil
}

// there refuses to go on without a folder that has to be there: where a store of
// points isn't mounted, it would begin anew on what it is mounted on.
func there(folder string) error {
	_, err := os.Stat(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return &dr.Error{Op: "open a folder of points", Side: dr.StoreSide, Err: fmt.Errorf("%w: %s", dr.ErrNotFound, folder),
			Remedy: "mount what the points are on, or, where there have never been any, make that folder"}
	}
	return err
}

// asItWas refuses a folder of points that was used the other way: its points would
// not be found, and the next failover would have none.
func asItWas(root string, perMachine bool) error {
	_, err := os.Stat(filepath.Join(root, "vault"))
	if errors.Is(err, fs.ErrNotExist) {
		if perMachine {
			return nil
		}
		for m, err := range machinesIn(root) {
			if err != nil {
				break // there is no folder yet, or opening it says what is wrong
			}
			return fmt.Errorf("%w: %s has a vault for each machine, of %s for one: set perMachine, or name another folder", dr.ErrInvalid, root, m)
		}
		return nil
	}
	if err == nil && perMachine {
		err = fmt.Errorf("%w: %s is one vault of all machines, which perMachine wouldn't look into: leave perMachine out, or name another folder, and protect the machines anew to it", dr.ErrInvalid, root)
	}
	return err
}

func missing(setting string) error { return fmt.Errorf("%w: %s is missing", dr.ErrInvalid, setting) }

func openBucket(ctx context.Context, raw json.RawMessage, at place) (recoverypoint.PointStore, io.Closer, error) {
	var s struct {
		Kind    string `json:"kind"`
		Address string `json:"address"`
		pair
	}
	if err := strict(raw, &s); err != nil {
		return nil, nil, err
	}
	if s.Address == "" {
		return nil, nil, missing("address")
	}
	t, err := s.tls(at)
	if err != nil {
		return nil, nil, err
	}
	tr := &http.Transport{TLSClientConfig: t, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second}
	b := bucket.Dial("https://"+s.Address+"/points", &http.Client{Transport: tr})
	end := closeFunc(func() error {
		err := b.Close()
		tr.CloseIdleConnections()
		return err
	})
	probe := func(ctx context.Context) error {
		_, _, err := b.ReadHead(ctx, "reachable")
		return err
	}
	if err := probe(ctx); err != nil {
		return nil, nil, errors.Join(err, end.Close())
	}
	v := permachine.New(permachine.Options{
		Open: func(ctx context.Context, m dr.MachineID) (recoverypoint.PointStore, error) {
			return vault.Open(ctx, bucket.Prefix(b, "vaults/"+permachine.Name(m)+"/"), vault.Options{PageCache: pageCache})
		},
		Machines: func(ctx context.Context) iter.Seq2[dr.MachineID, error] { return machinesOf(ctx, b) },
	})
	return probed{v, probe}, closers{end, v}, nil
}

// probed is a store of stores that is asked as a whole whether it is there: asking it
// for a machine that doesn't exist would make that one a store.
type probed struct {
	*permachine.Store
	probe func(context.Context) error
}

// readable reports whether a folder can be read.
func readable(root string) error {
	f, err := os.Open(root)
	if err != nil {
		return err
	}
	_, err = f.ReadDir(1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// pageCache is one machine's, of which a worker has thousands: it maps 1.6 GiB
// of disk.
const pageCache = 1 << 20

// machinesIn yields the machines that have a vault in the folder.
func machinesIn(root string) iter.Seq2[dr.MachineID, error] {
	return func(yield func(dr.MachineID, error) bool) {
		all, err := os.ReadDir(root)
		if err != nil {
			yield("", err)
			return
		}
		for _, e := range all {
			if m, ok := permachine.Machine(e.Name()); ok && !yield(m, nil) {
				return
			}
		}
	}
}

// machinesOf yields the machines that have a vault in the bucket.
func machinesOf(ctx context.Context, b vault.Bucket) iter.Seq2[dr.MachineID, error] {
	return func(yield func(dr.MachineID, error) bool) {
		last := ""
		for o, err := range b.List(ctx, "vaults/") {
			if err != nil {
				yield("", err)
				return
			}
			name, _, _ := strings.Cut(strings.TrimPrefix(o.Name, "vaults/"), "/")
			if name == last {
				continue
			}
			last = name
			if m, ok := permachine.Machine(name); ok && !yield(m, nil) {
				return
			}
		}
	}
}
