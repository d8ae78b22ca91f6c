package temporalserver

import (
	"bufio"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// Requests are how often a server was asked for what since its last start, by
// the name of the call.
type Requests struct {
	Frontend map[string]int // by clients, the server's own workers included
	Store    map[string]int // what it asked of its own store
}

// Profiles is the address of the server's profiles, as of net/http/pprof, with
// Options.Measure.
func (s *Server) Profiles() string {
	return "http://" + local(s.ports.Profile) + "/debug/pprof"
}

// counted is a line of the server's metrics that counts calls.
var counted = regexp.MustCompile(`^(service|persistence)_requests_total\{(.*)\} ([0-9.e+]+)$`)

var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// Requests tells what the server was asked for. It needs Options.Measure.
func (s *Server) Requests() (Requests, error) {
	r := Requests{map[string]int{}, map[string]int{}}
	c := http.Client{Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://" + local(s.ports.Metrics) + "/metrics")
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return r, fmt.Errorf("metrics of Temporal's server: %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m := counted.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		of := map[string]string{}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			of[l[1]] = l[2]
		}
		n, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return r, err
		}
		switch {
		case m[1] == "persistence":
			r.Store[of["operation"]] += int(n)
		case of["service_name"] == "frontend":
			r.Frontend[of["operation"]] += int(n)
		}
	}
	return r, lines.Err()
}
