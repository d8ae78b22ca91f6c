// Package health says how well protections, sites and runs are, in words that
// a console can show and a person can act on.
//
// A finding is an [Error]: it carries what Azure Site Recovery's health errors
// carry, in one shape for everything. [FromError] makes one of an error that
// something returned, [Of] finds those of a protection from facts that are
// recorded, [Site] rolls them up. All of it is pure: no clock, no I/O; the same
// facts give the same findings.
//
// A finding keeps its ID as long as it lasts, over restarts and in every
// process: the ID follows from its code and what it is about, not from its
// text, time or level. A console that keys its rows by ID shows each finding
// once, also when it grows from a warning to critical.
//
// What may not live here: whatever asks a platform or a store. Who has facts
// of other kinds, such as readiness or suspicion, makes an [Error] of each and
// adds it to [Facts.More].
package health
