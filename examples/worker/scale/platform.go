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
	}
	Objects int
	Bytes   int64
}

// effect is what has changed at a simulated site, as it keeps account of it.
type effect struct{ Op, Machine, Key, Point string }

// see asks a simulated site what there is.
func (w *world) see(site string) (s platform, err error) {
	return s, w.ask(site, "/machines", &s)
}

// ask asks a simulated site, as a worker does who has its certificates.
func (w *world) ask(site, path string, into any) error {
	pki := filepath.Join(w.dir, "sim", "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "worker.pem"), filepath.Join(pki, "worker.key"))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(filepath.Join(pki, "ca.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	t := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS13}}
	defer t.CloseIdleConnections()
	raw, err := os.ReadFile(filepath.Join(w.dir, "sim", "sites", site+".json"))
	if err != nil {
		return err
	}
	var f struct {
		Sites map[string]struct{ Machines struct{ Address string } }
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return err
	}
	res, err := (&http.Client{Transport: t}).Get("https://" + f.Sites[site].Machines.Address + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("site %s: %s", site, res.Status)
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// once fails the show unless each machine that was failed over was made and
// started once, and no machine runs at both sites or at none.
func (w *world) once() {
	w.t.Helper()
	here, err := w.see(home)
	must(w.t, err)
	there, err := w.see(away)
	must(w.t, err)
	var all []effect
	must(w.t, w.ask(away, "/effects", &all))
	runs, off, done := map[string]int{}, 0, map[string]int{}
	for _, m := range append(here.Machines, there.Machines...) {
		if m.Running {
			runs[m.Name]++
		} else {
			off++
		}
	}
	twice := map[effect]int{}
	for _, e := range all {
		done[e.Op]++
		if twice[e]++; twice[e] == 2 {
			w.t.Errorf("twice: %+v", e)
		}
	}
	for name, n := range runs {
		if n != 1 {
			w.t.Errorf("%s runs %d times", name, n)
		}
	}
	n := w.o.failover
	if len(runs) != w.o.machines || len(there.Machines) != n || off != n || done["prepare"] != n || done["start"] != n {
		w.t.Errorf("%d machines of %d run, %d are off; at %s are %d, and %v was done; want %d", len(runs), w.o.machines, off, away, len(there.Machines), done, n)
	}
	fmt.Fprintf(w.out, "failover: the platforms say: %d machines are off at home, at %s was done %v and nothing twice; each of %d machines runs once\n", off, away, done, len(runs))
}
