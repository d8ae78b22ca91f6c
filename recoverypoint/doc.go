// Package recoverypoint keeps recovery points: the contract of a store, and
// the pure rules by which points are selected and expire.
//
// Stores: recoverypoint/vault on a directory or an object store, memstore for
// tests. Package pointstoretest is the suite that each of them passes; users
// run it on stores of their own.
package recoverypoint
