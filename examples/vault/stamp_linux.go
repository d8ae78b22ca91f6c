package main

import (
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// stamp identifies the content of a file at a moment: as long as the stamp is
// the same nothing was written. "" says that nothing can be told: of devices,
// which have no time of their content, and of files written so recently that
// the file system's clock may give the next write the same time.
func stamp(info fs.FileInfo, now time.Time) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return ""
	}
	changed := time.Unix(st.Ctim.Unix())
	if info.ModTime().After(changed) {
		changed = info.ModTime()
	}
	// The kernel's clock ticks every 10 ms at most; file systems that keep
	// whole seconds, or two, show it by their round times.
	tick := 20 * time.Millisecond
	if st.Ctim.Nsec%1e6 == 0 || st.Mtim.Nsec%1e6 == 0 {
		tick = 3 * time.Second
	}
	if now.Sub(changed) < tick {
		return ""
	}
	return fmt.Sprintf("file:%d:%d:%d:%d:%d", st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}
