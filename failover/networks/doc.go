// Package networks maps the networks of one site to those of another, for
// failovers, for drills and for the way back, and finds conflicts before a
// failover meets them.
//
// A [Mapping] is data, to be kept in a file or in a recovery plan. Resolve makes
// of it what one machine's failover is given (failover.Where); Reverse makes the
// mapping of the way back, where that can be told; [Check] compares it with what
// is at the target, which [Look] finds out.
//
// All but Look is pure. What knows a platform may not live here: platforms tell
// of their networks by backend.NetworkLister.
package networks
