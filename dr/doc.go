// Package dr holds the words of disaster recovery: the vocabulary that every
// other package of Lifeboat speaks.
//
// Data. A [Machine] has disks. An [Image] is one frozen moment of a machine's
// disks, which can be read; a [Draft] is a set of disks being written, which
// becomes visible whole or not at all. A platform's snapshot and a stored
// recovery point are both images; a replica's disks and a new recovery point
// are both drafts. What an image or a draft can do beyond that is an ability:
// an interface with one method, found with [As].
//
// Control. A [Protection] is the durable record of one protected machine, and
// says which operations its state allows. A [Plan] is a flow as data: named
// steps whose actions are registered functions. An [Orchestrator] runs plans
// so that a crash between any two instructions loses nothing; a run is the
// pure fold of its plan and its journal ([Run]), the same for every engine.
//
// What may not live here: anything that does I/O, and anything that knows a
// platform. The package imports the standard library only.
package dr
