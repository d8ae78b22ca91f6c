// Package pgtest runs a throwaway PostgreSQL for tests, from the programs that
// Debian's postgresql-15 installs (.ci/tools does).
//
// What lives here: starting, stopping and killing a cluster, and asking it by
// psql. What may not live here: a driver, or anything that knows a schema. It
// imports the standard library only, so that every module's tests may use it.
//
// A [Cluster] listens on a free port of 127.0.0.1, where it asks for a password,
// and on a socket in a folder that only its user can enter, where it doesn't.
// If this process is root the server runs as user postgres, as it refuses to be
// root. It ends with the test, and on Linux also when this process is killed.
//
// Nothing is synced to disk unless [Options.Sync] says so: [Cluster.Kill] takes
// all that PostgreSQL had in memory, and leaves what it had handed to the
// kernel. A machine that loses power is another test.
//
// Without PostgreSQL a test is skipped, or fails if LIFEBOAT_REQUIRE=all says
// that nothing may be missing. Not verified on anything but Linux with
// PostgreSQL 15.
package pgtest
