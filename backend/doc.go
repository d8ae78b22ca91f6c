// Package backend is the contract between Lifeboat and the platforms that run
// machines. Every platform is both ends: a [Source] that captures machines
// and a [Target] that holds replicas and starts them, because bringing a
// machine home is the same work with the sites exchanged.
//
// The two interfaces hold what every platform can do. What some can do beyond
// is an ability, an interface with one method, found with dr.As; a flow that
// needs an ability which a backend lacks is refused before its first step.
//
// Package backendtest is the suite that every backend passes; users run it on
// backends of their own. Package backend/memory is the reference.
package backend
