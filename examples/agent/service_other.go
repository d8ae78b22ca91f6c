//go:build !windows

package main

import "io"

// osKinds are this system's own backends.
var osKinds = map[string]kind{}

const serviceUsage = ""

// asService tells whether the system started this process as a service that it
// speaks to. Elsewhere than on Windows a service is a process like any other.
func asService() bool { return false }

func serviceCommand(name string, _ []string, _ io.Writer) error {
	return wrongUsage("%q is no command", name)
}
