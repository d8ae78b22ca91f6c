// Package backendtest tells whether a backend keeps the promises of package
// backend. [Run] is the suite: give it a [Harness], which makes machines on
// the platform and plays their guest. Every promise is a subtest with a name
// of its own; abilities that a backend lacks, and what a harness can't do,
// are skipped by name.
//
// The suite is itself tested: on backends that each tell one lie, all of
// which it has to find out.
//
// [Wrap], [WrapImage] and [WrapDraft] put interceptors around a backend, an
// image or a draft, whatever abilities it has: [FailNth] to fail a call
// before or after its effect, [Latency] to make it slow, [Counter] to see what
// travelled.
//
// What knows a certain platform may not live here.
package backendtest
