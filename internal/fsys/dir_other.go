//go:build !unix

package fsys

func syncDir(name string) error { return nil }
