// Package postgres keeps claims, protections' records and the leases of a fleet
// in a PostgreSQL database, for any number of processes and of engines at once.
// It is a Go module of its own, so that who embeds the library without it doesn't
// get a driver. Runs aren't kept here: that is an engine's, dr/embedded or
// dr/temporal.
//
// A [Store] is [dr.Claims] with all abilities ([dr.ClaimLister], [dr.EpochRaiser],
// [dr.ClaimSeizer]), [dr.Records] with theirs ([dr.RecordLister],
// [dr.RecordImporter]) and [fleet.Fencer]; [Store.Leases] are [fleet.Leases].
//
// What lives here: the tables, the statements, and what is done when the database
// doesn't answer. What may not live here: anything that decides by what is stored.
//
// # What is promised when something fails
//
// A call tries again by itself for [Options.Patience] when the database restarts,
// fails over, is out of connections or doesn't answer within [Options.Attempt].
// It can, because each statement compares what it changes: with the epoch it has
// seen, the version it expects, or under the lock of the fleet's row. One that is
// sent twice, or that arrives late, changes nothing the second time. So a lost
// answer isn't the caller's affair: Save finds its own save again, by a number
// that it carries, and says ErrConflict only if it was somebody else's. After an
// error that isn't one of the contract's it is open whether the call was done.
//
// What was acknowledged survives a crash of the server: a claim that is lost is
// two masters. Each change asks for synchronous_commit = on in its own
// transaction, whatever the server, the database, the role or a pooler has set
// (a stronger remote_apply stays). A server with fsync = off breaks this
// nevertheless; Open tells the log of one. Behind an asynchronous standby the
// last claims are lost if that takes over: make it synchronous
// (synchronous_standby_names), or have a person see to it that no run goes on
// under a claim that the standby doesn't know. New claims' epochs are over those
// that it doesn't know either ([dr.NextEpoch]), by the server's clock; if that is
// behind, [dr.EpochRaiser] lifts them. The same is true of a database that is
// restored from a backup.
//
// # Leases and clocks
//
// Leases are measured by clock_timestamp() of the server alone. A worker's clock
// doesn't matter; the server's must not jump: forwards by more than a worker's
// margin it frees what is still held (the late worker is fenced, and repeats),
// backwards it keeps what nobody holds for so much longer. Whoever changes leases
// locks one row: all workers together change them a few hundred times a second at
// most. One that stands still while it has the row is thrown out after 3 seconds.
//
// # Schema, upgrades and rights
//
// All is in one schema, [Options.Schema], that nothing else may use. [Open] makes
// it, and upgrades it, under an advisory lock, in one transaction; any number of
// processes may open it at once. Names are bytea, as they may be any bytes; to read
// them:
//
//	SELECT encode(resource, 'escape'), encode(owner, 'escape'), epoch, since FROM lifeboat.claim WHERE owner IS NOT NULL;
//	SELECT encode(id, 'escape'), version, body->>'state', body->'active'->>'site' FROM lifeboat.protection ORDER BY id;
//
// Don't write to them: versions and epochs decide who may act. Records are json as
// package encoding/json writes it, not jsonb, which would change numbers and
// refuse a zero character.
//
// Rolling upgrades: a version that only adds to the schema is no business of older
// programs, which go on beside it and may be started anew. A version that older
// ones can't live with raises the floor: they aren't opened any more
// (ErrUnsupported), and as what was changed has a new name then, those that run
// fail at their next call (ErrUnsupported), and write nothing. Its release notes
// say so: stop them first. Nothing is ever downgraded.
//
// A role needs few rights, see [Grants]: it can't change tables, nor delete a
// claim or a record. Let the schema's owner open each new version once, for
// example in the job that deploys it.
//
// The DSN says how TLS is done: use sslmode=verify-full over a network. No error
// and no log line holds the DSN or the password.
//
// # Poolers
//
// Behind PgBouncer in transaction mode (1.18 is what the tests run) nothing here needs
// a session, but the driver's default keeps prepared statements in one: add
// default_query_exec_mode=exec to the DSN. After a crash of the server PgBouncer
// waits server_login_retry, 15 seconds, before it connects again: leave
// [Options.Patience] longer than that. The pool here is small (pool_max_conns, by
// default the processors, 4 at least): only hundreds of processes need a pooler.
//
// # Not verified on
//
// PostgreSQL 15 of Debian 12 is what the tests run on, over TCP and TLS. Nothing newer
// than version 12's SQL is used; 13 to 18 are expected to work. Not run: managed
// services (Azure Database for PostgreSQL, RDS, Cloud SQL: Azure's zone-redundant
// high availability is synchronous, read replicas are not), synchronous standbys and
// their takeover, CockroachDB and YugabyteDB, which aren't PostgreSQL (advisory
// locks, FOR KEY SHARE).
package postgres
