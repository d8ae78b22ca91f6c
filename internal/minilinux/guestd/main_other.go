//go:build !linux

package main

func main() { panic("guestd is the init of a Linux") }
