// Package lint holds the repository to its own rules, as tests: which package
// may import which, that exported names are documented, how long a file may
// be, and what files may not be called. It has no code of its own.
package lint
