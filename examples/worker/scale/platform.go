//go:build linux

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// platform is what a simulated site tells of itself, whatever any record or
// history says.
type platform struct {
	Machines []struct {
		ID, Name, Key string
		Running       bool
		Starts        int // how often it went from off to on by a worker's hand
	}
	Objects int
	Bytes   int64
}

// ask asks a simulated site, as a worker does who has its certificates.
func (w *world) ask(site string) (s platform, err error) {
	pki := filepath.Join(w.dir, "sim", "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "worker.pem"), filepath.Join(pki, "worker.key"))
	if err != nil {
		return s, err
	}
	pem, err := os.ReadFile(filepath.Join(pki, "ca.pem"))
	if err != nil {
		return s, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	t := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS13}}
	defer t.CloseIdleConnections()
	raw, err := os.ReadFile(filepath.Join(w.dir, "sim", "sites", site+".json"))
	if err != nil {
		return s, err
	}
	var f struct {
		Sites map[string]struct{ Machines struct{ Address string } }
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return s, err
	}
	res, err := (&http.Client{Transport: t}).Get("https://" + f.Sites[site].Machines.Address + "/machines")
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return s, fmt.Errorf("site %s: %s", site, res.Status)
	}
	return s, json.NewDecoder(res.Body).Decode(&s)
}

// once fails the show unless each machine that was failed over was made and
// started once, and no machine runs at both sites or at none.
func (w *world) once() {
	w.t.Helper()
	here, err := w.ask(home)
	must(w.t, err)
	there, err := w.ask(away)
	must(w.t, err)
	runs := map[string]int{}
	starts, made := 0, 0
	for _, m := range there.Machines {
		if m.Key == "" {
			w.t.Errorf("machine %s of %s has no placement", m.ID, away)
		}
		made++
		starts += m.Starts
		if m.Running {
			runs[m.Name]++
		}
		if m.Starts > 1 {
			w.t.Errorf("%s was started %d times", m.Name, m.Starts)
		}
	}
	off := 0
	for _, m := range here.Machines {
		if m.Running {
			runs[m.Name]++
		} else {
			off++
		}
	}
	for name, n := range runs {
		if n != 1 {
			w.t.Errorf("%s runs %d times", name, n)
		}
	}
	if len(runs) != w.o.machines || made != w.o.failover || starts != w.o.failover || off != w.o.failover {
		w.t.Errorf("%d machines of %d run; %d made and %d started there and %d off here, want %d each", len(runs), w.o.machines, made, starts, off, w.o.failover)
	}
	fmt.Fprintf(w.out, "failover: the platforms say: %d machines made, %d started, %d off at home, each of %d runs once\n", made, starts, off, len(runs))
}
