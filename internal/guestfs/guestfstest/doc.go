// Package guestfstest makes file systems with the tools of the host and with
// its kernel, for tests, and says what is in them. A test that needs a tool
// or root is skipped without, or fails if LIFEBOAT_REQUIRE=all says that
// nothing may be missing.
//
// What may not live here: what is not for tests.
package guestfstest
