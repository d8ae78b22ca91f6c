// Package azurite runs Azurite, Microsoft's emulator of Azure Storage, for
// tests: its blob service only, over HTTP, on a free port of this machine.
//
// The script .ci/azurite installs it below the repository's .cache, which
// `make test` does. Without it, or without node, a test that starts one is
// skipped, or fails if LIFEBOAT_REQUIRE=all says that nothing may be missing.
//
// A server ends with the process that started it, also if that is killed.
//
// What differs from Azure, as far as it was seen: page ranges are never
// compared (GetPageRangesDiff answers the whole list), limits of sizes and
// rates aren't kept, names of metadata come back with capitals, and what was
// written just before a kill may be lost.
package azurite
