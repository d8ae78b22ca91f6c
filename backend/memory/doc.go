// Package memory is the reference backend: a platform whose machines live in
// this process. Read it to see what the contract of package backend means;
// build tests and demonstrations on it.
//
// A machine's disk is a map of 64 KiB pages. What was never written, or was
// zeroed, takes no room, so a disk of 1 TiB is as cheap as its data. A capture
// copies the map and shares the pages: guest writes go to fresh copies of
// pages that a capture can still see.
//
// [Backend] is the platform itself and outlives every orchestrator that works
// on it. [Backend.Crash] stands for the death of such an orchestrator's
// process: open images and drafts die, captures, torn marks and what machines
// hold stay.
//
// Fences are remembered with the machine, and a change and the check of who may
// make it are one step: a call that was passed over never takes effect, nor does
// a write of its draft.
//
// Abilities are not methods of Backend: they are found with dr.As, because
// [Options] can switch each of them off.
//
// Nothing here may reach outside the process, and no other package's knowledge
// (stores, flows) may live here.
package memory
