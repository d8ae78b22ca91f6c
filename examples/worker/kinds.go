package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/physical"
	"github.com/lifeboat-dr/lifeboat/backend/remote"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/examples/worker/bucket"
	"github.com/lifeboat-dr/lifeboat/recoverypoint"
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
	Cert        string `json:"cert"`
	Key         string `json:"key"`
	Authorities string `json:"authorities"`
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
		pair
	}
	if err := strict(raw, &s); err != nil {
		return nil, nil, err
	}
	t, err := s.tls(at)
	if err != nil {
		return nil, nil, err
	}
	// A step or a cycle that can't reach its site fails soon and is tried again:
	// it must not keep a place meanwhile.
	c, err := remote.Dial(ctx, s.Address, remote.DialOptions{TLS: t, Links: s.Links, Patience: 10 * time.Second, Log: at.log})
	if err != nil {
		return nil, nil, err
	}
	return c, c, nil
}

func openPhysical(_ context.Context, raw json.RawMessage, at place) (backend.Backend, io.Closer, error) {
	var s struct {
		Kind   string          `json:"kind"`
		Config physical.Config `json:"config"`
	}
	if err := strict(raw, &s); err != nil {
		return nil, nil, err
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
	v, err := vault.OpenDir(at.path(s.Folder), o)
	if err != nil {
		return nil, nil, err
	}
	return v, v, nil
}

func openBucket(ctx context.Context, raw json.RawMessage, at place) (recoverypoint.PointStore, io.Closer, error) {
	var s struct {
		Kind    string `json:"kind"`
		Address string `json:"address"`
		pair
	}
	if err := strict(raw, &s); err != nil {
		return nil, nil, err
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
	v, err := vault.Open(ctx, b, vault.Options{})
	if err != nil {
		return nil, nil, errors.Join(err, end.Close())
	}
	return v, closers{end, v}, nil
}
