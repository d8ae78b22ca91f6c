package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// computer is what a guest has of the machine that it runs on: disks, by their
// numbers, the one that it starts from first.
type computer struct {
	disks int
	read  reader
	write func(disk int, p []byte, off int64) error
}

// pause is between two rounds of a guest's work: about 100 writes a second to
// each disk.
const pause = 10 * time.Millisecond

// label is the first sector of each disk: whose it is, and its number.
func label(name string, disk int) []byte {
	p := make([]byte, 512)
	copy(p, fmt.Sprintf("lifeboat demo, machine %s, disk %d\n", name, disk))
	return p
}

// owner reads whose disk it is.
func owner(c computer) (name string, err error) {
	p := make([]byte, 512)
	if err := c.read(0, p, 0); err != nil {
		return "", err
	}
	var disk int
	if _, err := fmt.Sscanf(string(bytes.TrimRight(p, "\x00")), "lifeboat demo, machine %s disk %d", &name, &disk); err != nil {
		return "", fmt.Errorf("the machine has no disk to start from: %w", err)
	}
	return name[:len(name)-1], nil
}

// install gives a new machine its disks' first content: a third is data, of
// which half can be compressed, and the rest is empty.
func (w *witness) install(name string, c computer, sizes []int64) error {
	disks := make([]*content, c.disks)
	rnd := rand.NewChaCha8([32]byte{byte(len(name)), name[0]})
	for i := range disks {
		disks[i] = empty(sizes[i])
		put := func(p []byte, off int64) error {
			disks[i].write(p, off)
			return c.write(i, p, off)
		}
		if err := put(label(name, i), 0); err != nil {
			return err
		}
		text := bytes.Repeat([]byte("lifeboat takes the machine round the cycle\n"), 256<<10/43)
		for off := int64(dataAt); off+1<<20 <= sizes[i]; off += 3 << 20 {
			p := make([]byte, 1<<20)
			_, _ = rnd.Read(p[:512<<10]) // never fails
			copy(p[512<<10:], text)
			if err := put(p, off); err != nil {
				return err
			}
		}
	}
	return w.run(name, disks, position{Life: -1}, c)
}

// boot is a machine that starts: before it writes a byte, all its disks are
// compared with what it had at the moment that they claim to be of.
func (w *witness) boot(c computer) error {
	name, err := owner(c)
	if err != nil {
		return err
	}
	at, disks, err := w.locate(name, c.read)
	if err != nil {
		return err
	}
	return w.run(name, disks, at, c)
}

// run begins a life. It ends when the machine is off.
func (w *witness) run(name string, disks []*content, at position, c computer) error {
	l := w.begin(name, disks, at)
	// So that the disks of this life are never taken for its parent's.
	if err := l.write(c, write{0, headAt, headLen}); err != nil {
		close(l.gone)
		return err
	}
	go func() {
		defer close(l.gone)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for range tick.C {
			for _, x := range l.round(c.disks) {
				if l.write(c, x) != nil {
					return // it is off
				}
			}
		}
	}()
	return nil
}

// round is some work: data on each disk, and then the number that says so. As
// guests do, this one mostly writes to the same part of a disk, here an eighth.
func (l *life) round(disks int) []write {
	var all []write
	for i := range disks {
		n := int64(4<<10) << rand.IntN(4)
		room := l.from[i].size - dataAt - n
		if rand.IntN(8) > 0 {
			room /= 8
		}
		all = append(all, write{i, dataAt + rand.Int64N(room/512+1)*512, n})
	}
	return append(slices.Clip(all), write{0, headAt, headLen})
}

// write is noted if it has reached the disk, and only then.
func (l *life) write(c computer, x write) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := c.write(x.disk, l.bytes(len(l.log)+1, x), x.off); err != nil {
		return err
	}
	l.log = append(l.log, x)
	return nil
}
