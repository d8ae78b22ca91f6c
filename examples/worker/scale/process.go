//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a worker or the simulated sites.
type process struct {
	t       testing.TB
	name    string
	role    string
	args    []string
	env     []string
	program string
	dir     string
	lines   int

	cmd  *exec.Cmd // nil: it has ended
	addr string    // of its first line
	over chan struct{}
}

// begin starts the process, again if it was killed, and returns when it listens.
func (p *process) begin() {
	p.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(p.t, err)
	defer log.Close()
	cmd := exec.Command(p.program, p.args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, in, err := os.Pipe()
	must(p.t, err)
	cmd.Stdout = in
	must(p.t, cmd.Start())
	in.Close()
	lines := bufio.NewReader(out)
	var last string
	for range p.lines {
		if last, err = lines.ReadString('\n'); err != nil {
			p.t.Fatalf("%s said nothing: %v\n%s", p.name, err, p.said())
		}
	}
	out.Close()
	p.addr = strings.TrimSpace(last)
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = cmd.Wait() // a kill is no news
	}()
	p.cmd, p.over = cmd, over
}

func (p *process) pid() int {
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// end ends it by a signal and returns, when it is gone, what it has used.
func (p *process) end(s syscall.Signal, within time.Duration) time.Duration {
	p.t.Helper()
	if p.cmd == nil {
		return 0
	}
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.over:
	case <-time.After(within):
		p.t.Errorf("%s didn't end within %v of %v", p.name, within, s)
		_ = p.cmd.Process.Kill()
		<-p.over
	}
	state := p.cmd.ProcessState
	p.cmd = nil
	return state.UserTime() + state.SystemTime()
}

// said is the end of its log.
func (p *process) said() string {
	raw, _ := os.ReadFile(filepath.Join(p.dir, p.name+".log"))
	return string(raw[max(0, len(raw)-3000):])
}

// ask asks a worker; body "" is a GET. What isn't 200 is an error.
func (p *process) ask(path, body string, into any) error {
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequest(method, "http://"+p.addr+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", p.name, path, res.Status, raw)
	}
	if err == nil && into != nil {
		err = json.Unmarshal(raw, into)
	}
	return err
}

// ready waits until the worker serves.
func (p *process) ready() {
	p.t.Helper()
	var err error
	for limit := time.Now().Add(2 * time.Minute); time.Now().Before(limit); time.Sleep(50 * time.Millisecond) {
		if err = p.ask("/readyz", "", nil); err == nil {
			return
		}
	}
	p.t.Fatalf("%s isn't ready: %v\n%s", p.name, err, p.said())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
