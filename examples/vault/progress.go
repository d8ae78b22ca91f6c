package main

import (
	"fmt"
	"io"
	"os"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// progress shows on a terminal how far a copy is, in one line that is written
// over. Anywhere else it shows nothing.
type progress struct {
	w     io.Writer // nil: quiet
	total int64
	done  map[dr.DiskID]int64
	rate  map[dr.DiskID]float64
}

func newProgress(disks []dr.Disk) *progress {
	p := &progress{done: map[dr.DiskID]int64{}, rate: map[dr.DiskID]float64{}}
	for _, d := range disks {
		p.total += d.Size
	}
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" {
		p.w = os.Stderr
	}
	return p
}

func (p *progress) show(now dr.Progress) {
	if p.w == nil {
		return
	}
	p.done[now.Disk], p.rate[now.Disk] = now.Done, now.Rate
	var done int64
	var rate float64
	for id := range p.done {
		done += p.done[id]
		rate += p.rate[id]
	}
	percent := 100.0
	if p.total > 0 {
		percent = 100 * float64(done) / float64(p.total)
	}
	fmt.Fprintf(p.w, "\r%5.1f %%  %s of %s  %s/s\x1b[K", percent, size(done), size(p.total), size(int64(rate)))
}

// end clears the line.
func (p *progress) end() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// size writes bytes for people.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
