// Package vhd makes and reads the footer of fixed VHDs: a disk's bytes as they
// are, with 512 bytes behind them that say so. It is the format of disks that
// Azure takes.
//
// The layout is that of Microsoft's "Virtual Hard Disk Image Format
// Specification", version 1.0 of October 2006; the rules of size are those of
// "Prepare a Windows VHD or VHDX to upload to Azure": fixed, and a whole number
// of MiB without the footer.
package vhd
