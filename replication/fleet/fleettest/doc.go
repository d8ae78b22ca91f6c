// Package fleettest tests what the workers of a fleet stand on: [Leases] every
// implementation of fleet.Leases, [Fencer] records that heed a shard's epoch.
// What a fleet does with them is tested beside it.
package fleettest
