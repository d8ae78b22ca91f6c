//go:build linux

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// used is what processes have cost so far, by role.
type used map[string]usage

type usage struct {
	cpu    time.Duration
	memory int64 // bytes now, each shared page counted once
}

// since is what was used after before.
func (u used) since(before used) used {
	d := used{}
	for role, x := range u {
		d[role] = usage{x.cpu - before[role].cpu, x.memory}
	}
	return d
}

func (u used) cpu() (sum time.Duration) {
	for _, x := range u {
		sum += x.cpu
	}
	return sum
}

// String tells CPU and memory of each role.
func (u used) String() string {
	var all []string
	for _, role := range slices.Sorted(maps.Keys(u)) {
		all = append(all, fmt.Sprintf("%s %.1fs %s", role, u[role].cpu.Seconds(), size(u[role].memory)))
	}
	return strings.Join(all, ", ")
}

// each tells CPU of each role per one of n.
func (u used) each(n int) string {
	if n == 0 {
		return "nothing"
	}
	var all []string
	for _, role := range slices.Sorted(maps.Keys(u)) {
		all = append(all, fmt.Sprintf("%s %.2f", role, u[role].cpu.Seconds()*1000/float64(n)))
	}
	return fmt.Sprintf("%.2f ms (%s)", u.cpu().Seconds()*1000/float64(n), strings.Join(all, ", "))
}

// tick is the unit of times in /proc: Linux has told programs 100 Hz on every
// architecture for twenty years (proc(5), sysconf(_SC_CLK_TCK)).
const tick = 10 * time.Millisecond

// cpuOf is what a process has used, with the children that it has waited for
// if reaped is set; 0 if it has ended.
func cpuOf(pid int, reaped bool) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// After the name, which may hold anything but ends with the last bracket:
	// utime is the 12th field, then stime, cutime, cstime.
	f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(f) < 15 {
		return 0
	}
	last := 13
	if reaped {
		last = 15
	}
	var sum int64
	for _, s := range f[11:last] {
		n, _ := strconv.ParseInt(s, 10, 64)
		sum += n
	}
	return time.Duration(sum) * tick
}

// memoryOf is a process's share of memory in bytes; 0 if it has ended.
func memoryOf(pid int) int64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}

// childrenOf are the processes that one has started.
func childrenOf(pid int) (all []int) {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, s := range strings.Fields(string(raw)) {
		if n, err := strconv.Atoi(s); err == nil {
			all = append(all, n)
		}
	}
	return all
}

func load() string {
	raw, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(raw))
	return strings.Join(f[:min(3, len(f))], " ")
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}

// folder is how many bytes the files of a folder that match have.
func folder(pattern string) (sum int64) {
	names, _ := filepath.Glob(pattern)
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// used is what everything has cost until now. A process that was killed counts
// with what it had used.
func (w *world) used() used {
	u := maps.Clone(w.gone)
	add := func(role string, cpu time.Duration, memory int64) {
		u[role] = usage{u[role].cpu + cpu, u[role].memory + memory}
	}
	for _, p := range append([]*process{w.sites}, w.workers...) {
		if pid := p.pid(); pid != 0 {
			add(p.role, cpuOf(pid, false), memoryOf(pid))
		}
	}
	cpu, memory := w.database()
	add("postgres", cpu, memory)
	if w.temporal != nil {
		add("temporal", w.temporal.CPU(), memoryOf(w.temporal.PID()))
	}
	return u
}

// database is what PostgreSQL's processes have cost since it was started.
func (w *world) database() (cpu time.Duration, memory int64) {
	raw, err := os.ReadFile(filepath.Join(w.db.Data, "postmaster.pid"))
	if err != nil {
		return 0, 0
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0, 0
	}
	cpu, memory = cpuOf(pid, true), memoryOf(pid)
	for _, child := range childrenOf(pid) {
		cpu, memory = cpu+cpuOf(child, false), memory+memoryOf(child)
	}
	return cpu, memory
}

// keep notes what a role has used that will be gone.
func (w *world) keep(role string, cpu time.Duration) {
	w.gone[role] = usage{cpu: w.gone[role].cpu + cpu}
}
