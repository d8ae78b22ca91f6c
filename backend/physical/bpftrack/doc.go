// Package bpftrack tracks the writes to block devices with BPF programs.
package bpftrack
