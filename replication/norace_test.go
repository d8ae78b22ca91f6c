//go:build !race

package replication_test

const raced = false
