//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// command is a test's part of testing.TB for a program: what pgtest and
// temporalserver ask for, and no more.
type command struct {
	testing.TB // nil: whatever else is asked for panics
	out        io.Writer

	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

// run calls f and then what Cleanup was given, also if f gave up or the user
// interrupts.
func (c *command) run(f func()) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		f()
	}()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	select {
	case <-over:
	case <-interrupted:
		c.fail()
	}
	c.mu.Lock()
	all := c.cleanups
	c.cleanups = nil
	c.mu.Unlock()
	for _, f := range slices.Backward(all) {
		f()
	}
}

func (c *command) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = true
}

func (c *command) Failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

func (c *command) Cleanup(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cleanups = append(c.cleanups, f)
}

func (c *command) Helper()                   {}
func (c *command) Logf(f string, a ...any)   { fmt.Fprintf(c.out, f+"\n", a...) }
func (c *command) Log(a ...any)              { fmt.Fprintln(c.out, a...) }
func (c *command) Errorf(f string, a ...any) { c.Logf(f, a...); c.fail() }
func (c *command) Fatal(a ...any)            { c.Log(a...); c.FailNow() }
func (c *command) Fatalf(f string, a ...any) { c.Logf(f, a...); c.FailNow() }
func (c *command) Skipf(f string, a ...any)  { c.Fatalf(f, a...) } // a program doesn't skip what it is for
func (c *command) FailNow()                  { c.fail(); runtime.Goexit() }

func (c *command) TempDir() string {
	dir, err := os.MkdirTemp("", "scale")
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { _ = os.RemoveAll(dir) }) // a temporary folder that stays harms nobody
	return dir
}
