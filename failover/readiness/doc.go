// Package readiness tells, before a failover, what will keep people from getting
// to the machine after it, and what will make it slow; after one, whether it can be
// reached; and before a failback, whether its infrastructure is there. The rows are
// those of the article "About on-premises disaster recovery failover/failback",
// each a [Check] with a stable code, its cause and a remedy.
//
// [Judge], [JudgeAccess] and [JudgeFailback] are pure. [Before], [After] and
// [Failback] gather, by abilities of the sites' backends and in bounded time, and
// judge.
//
// What can't be told is [Unknown] and never passes; [Ready] is true only if every
// blocker that applies has passed.
//
// No platform is imported here, and nothing is changed anywhere: a remedy is for
// a person, or for a step of a flow.
package readiness
