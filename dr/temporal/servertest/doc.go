// Package servertest holds the tests of dr/temporal that need a Temporal
// server, which runs in the test's own process. It is a Go module of its own,
// so that who imports dr/temporal doesn't get the server's modules; nothing but
// tests may live here.
package servertest
