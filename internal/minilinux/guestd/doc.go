// Command guestd is all that the small Linux of package minilinux runs. As
// /init of the initramfs it loads drivers and goes over to the root file
// system; there, as /sbin/init, it counts and serves. Being process 1, it
// never returns: it says what failed on the console and switches off.
//
// What may not live here: what a watcher outside needs to know, which is in
// package guest.
package main
