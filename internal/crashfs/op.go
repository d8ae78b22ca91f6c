package crashfs

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Kind is what an operation does.
type Kind uint8

// The operations of fsys.FS and fsys.File. Create is an OpenFile that may make
// or truncate a file, Open any other. Releasing a lock is no operation.
const (
	Open Kind = iota + 1
	Create
	Read
	Write
	Sync
	Truncate
	Size
	Data
	Punch
	Close
	Rename
	Link
	Remove
	Mkdir
	ReadDir
	Stat
	SyncDir
	Lock
)

var kindNames = [...]string{"", "open", "create", "read", "write", "sync", "truncate", "size", "data", "punch",
	"close", "rename", "link", "remove", "mkdir", "readdir", "stat", "syncdir", "lock"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Op is one operation, as it is about to happen.
type Op struct {
	N    int64 // counts from 1
	Kind Kind
	Path string // rooted and with slashes; of a file, the name that it was opened by
	To   string // the new name, of Rename and Link
	Off  int64  // of Read, Write, Data and Punch; the size, of Truncate
	Len  int64  // of Read, Write and Punch
}

func (o Op) String() string {
	s := fmt.Sprintf("%d %v %s", o.N, o.Kind, o.Path)
	switch o.Kind {
	case Rename, Link:
		s += " → " + o.To
	case Read, Write, Punch:
		s += fmt.Sprintf(" [%d, +%d)", o.Off, o.Len)
	case Truncate, Data:
		s += fmt.Sprintf(" %d", o.Off)
	}
	return s
}

// Match selects operations.
type Match func(Op) bool

// Mutating accepts the operations that change what is, or what would be, on the
// disk: those at which a power cut makes a difference.
func Mutating(o Op) bool {
	switch o.Kind {
	case Create, Write, Sync, Truncate, Punch, Rename, Link, Remove, Mkdir, SyncDir:
		return true
	}
	return false
}

// On accepts operations of these kinds, or of any if none is given, whose path,
// old or new, matches the pattern of path.Match. A pattern without a slash is
// held against the last element of the path. It panics on a malformed pattern.
func On(pattern string, kinds ...Kind) Match {
	if _, err := path.Match(pattern, ""); err != nil {
		panic(fmt.Sprintf("crashfs: pattern %q: %v", pattern, err))
	}
	matches := func(name string) bool {
		if !strings.Contains(pattern, "/") {
			name = path.Base(name)
		}
		ok, _ := path.Match(pattern, name)
		return ok
	}
	return func(o Op) bool {
		if len(kinds) > 0 && !slices.Contains(kinds, o.Kind) {
			return false
		}
		return matches(o.Path) || o.To != "" && matches(o.To)
	}
}
