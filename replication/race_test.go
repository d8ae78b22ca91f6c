//go:build race

package replication_test

// raced: the race detector multiplies the memory that a process takes
// (https://go.dev/doc/articles/race_detector), so bounds mean nothing.
const raced = true
