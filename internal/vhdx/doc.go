// Package vhdx reads and writes VHDX files, Hyper-V's virtual disks: fixed,
// dynamic and differencing ones.
package vhdx
