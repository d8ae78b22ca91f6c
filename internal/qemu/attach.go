package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Attach finds the machine that runs in the folder, as Start with the same Config
// and Outlive left it. dr.ErrNotFound: none does.
func Attach(ctx context.Context, c Config) (*Machine, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	m := newMachine(c)
	if m.place, err = openPlace(c.Dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = dr.ErrNotFound
		}
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("QEMU did not answer in "+patience.String()))
	defer cancel()
	conn, err := m.place.dial(ctx, qmpSocket)
	if err != nil {
		m.place.Close()
		// Anything else, such as too many open files, says nothing: a machine that
		// runs must not be started again.
		if nobodyListens(err) {
			err = fmt.Errorf("%w: nothing answers in %s: %w", dr.ErrNotFound, c.Dir, err)
		}
		return nil, err
	}
	if m.found, err = peerOf(conn); err != nil {
		return nil, errors.Join(err, conn.Close(), m.place.Close())
	}
	if err := m.connectAt(ctx, conn); err != nil {
		m.place.Close()
		m.found.close()
		if errors.Is(err, ErrEnded) {
			err = fmt.Errorf("%w: it is ending in %s: %w", dr.ErrNotFound, c.Dir, err)
		}
		return nil, err
	}
	go func() {
		<-m.qmp.ended
		m.mu.Lock()
		left := m.left
		m.mu.Unlock()
		if !left {
			m.found.wait(patience) // it holds its disks until then
		}
		m.found.close()
		m.ended(nil)
		close(m.gone)
	}()
	return m, nil
}

// dial calls at one of QEMU's sockets, and waits for room in its queue: QEMU takes
// one call at a time, two may wait, and of those who have gone it hears only then.
func (p place) dial(ctx context.Context, socket string) (net.Conn, error) {
	for {
		conn, err := p.knock(ctx, socket)
		if err == nil || !queueFull(err) {
			return conn, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

// knock is dial without the wait.
func (p place) knock(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", p.name(socket))
}

// vacant returns nil if no machine runs in the folder. One that ends with a process
// that was killed may take a moment.
func vacant(ctx context.Context, c Config) error {
	p, err := openPlace(c.Dir)
	if err != nil {
		return err
	}
	defer p.Close()
	for end := time.Now().Add(5 * time.Second); ; {
		conn, err := p.knock(ctx, qmpSocket)
		if err != nil && nobodyListens(err) {
			return nil
		}
		if err == nil {
			conn.Close()
		}
		if err == nil || queueFull(err) {
			err = fmt.Errorf("%w: a machine runs in %s", dr.ErrBusy, c.Dir)
		}
		if c.Outlive || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}
