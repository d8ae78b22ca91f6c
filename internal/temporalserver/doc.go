// Package temporalserver runs a real Temporal server for tests: the program
// that Temporal's own image runs, built from the module proxy, on a throwaway
// PostgreSQL. It can be killed, started again, cut off, and robbed of its
// database.
//
// What lives here: building, configuring, starting and killing the server.
// What may not live here: Temporal's SDK or API, or any module but the
// standard library's. Namespaces are made over the server's HTTP API. So every
// module's tests may use it.
//
// The version is the one that the go.mod of dr/temporal/servertest names. It is
// built there once, which takes minutes if Go's build cache is cold, and kept
// in the repository's .cache. All four services run in one process, with four shards
// of history.
//
// Tests that need it are skipped without PostgreSQL or where it can't be
// built, or fail if LIFEBOAT_REQUIRE=all says that nothing may be missing. Not
// verified on anything but Linux.
package temporalserver
