//go:build !linux

package qemu

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// place is a folder, by its path.
type place struct{ path string }

func openPlace(path string) (place, error) { return place{path}, nil }

func (p place) Close() error { return nil }

func (p place) name(file string) string { return filepath.Join(p.path, file) }

func queueFull(error) bool { return false }

// Listen makes a socket in the machine's folder dir, for one of its disks.
func Listen(dir, socket string, user *User) (net.Listener, error) {
	name := filepath.Join(dir, socket)
	_ = os.Remove(name)
	return net.Listen("unix", name)
}

func giveFolder(string, *User) error { return nil }

func give(string, fs.FileMode, *User) error { return nil }

func nobodyListens(error) bool { return true }

func (p place) openOurs(file string) (*os.File, error) { return os.Open(p.name(file)) }

func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeDevice != 0
}

func mine(fs.FileInfo) bool { return true }

// run starts QEMU and returns a channel that gets how it ended.
func (p place) run(c Config, output *Tail) (*os.Process, <-chan error, error) {
	cmd := exec.Command(c.Program, c.args(nil)...)
	cmd.Dir = p.path
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return cmd.Process, ended, nil
}

// peer is the process at the other end of a connection: not known here.
type peer struct{}

func peerOf(net.Conn) (*peer, error) { return &peer{}, nil }

func (*peer) kill() error { return errors.ErrUnsupported }

func (*peer) wait(time.Duration) {}

func (*peer) close() {}
