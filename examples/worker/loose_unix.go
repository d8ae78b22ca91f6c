//go:build unix

package main

import "io/fs"

// loose reports whether others than the owner and its group can read a file.
func loose(m fs.FileMode) bool { return m.Perm()&0o007 != 0 }
