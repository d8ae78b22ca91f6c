// Package memstore is the reference recoverypoint.PointStore, in memory: for
// tests, and to read what a store does without the disk formats around it.
//
// It has every ability that stores, images and drafts may have, but for
// recoverypoint.Pruner (there is nothing to give back: the garbage collector
// does) and recoverypoint.Scrubber. Points share the 64 KiB pages that they
// have in common; a page that was never written costs nothing.
//
// What outlives the process does not belong here; [Store.Crash] only plays
// what another process would find.
package memstore
