// Package drillreport writes down what a recovery plan's run has proved: which
// machines came up from which points of what age, what was checked, how long it
// took, what it was measured against, and what was cleaned up. [Gather] reads
// it from the runs' journals; it is kept as JSON, and handed to an auditor as
// one HTML page that needs nothing else ([Report.WriteHTML]).
//
// It serves drills first, but every flow that brings machines up: a real
// failover is also asked afterwards how it went.
//
// Nothing is decided here but whether the objectives were met, and nothing is
// left out: a report of a run that failed says so.
package drillreport
