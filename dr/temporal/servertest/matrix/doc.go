// Package matrix kills what runs belong to, on both engines, and counts what
// the runs did: every effect once, or the test fails. `go test -v` prints one
// table; with LIFEBOAT_LONG=1 every effect is killed, not a sample of them.
//
// Processes are real ones that die by SIGKILL, the Temporal server and its
// PostgreSQL among them. Only tests live here.
package matrix
