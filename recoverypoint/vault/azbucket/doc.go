// Package azbucket keeps a vault in a container of Azure Blob storage.
//
//	c, err := container.NewClient(url, credential, &container.ClientOptions{})
//	v, err := vault.Open(ctx, azbucket.New(c, azbucket.Options{}), vault.Options{})
//
// An object is a block blob, put only if there is none of its name; a head is
// one that is replaced only if its ETag is still the one that was read. An
// answer that was lost is found out about: blobs carry in their metadata who
// wrote them.
//
// Locks are leases: several processes may use the vault, one at a time writes. A
// lock outlives a process that was killed by up to a minute, in which others are
// told dr.ErrBusy.
//
// Here lives the bucket, and what it takes to know what became of a request. The
// vault's format belongs to package vault, disks as page blobs to
// backend/azure.
//
// # What the account should be
//
// Standard general-purpose v2 or premium block blobs, in the hot or the cool
// tier: what is archived can't be read. The identity needs to read, write,
// delete and list blobs (Storage Blob Data Contributor on the container). Soft
// delete and versions are a second line of defence, and keep, and cost, what a
// prune has deleted. A policy that makes blobs immutable can't be had, because
// heads are replaced.
//
// # Not verified on
//
// Azure itself: it was tested on Azurite, Microsoft's emulator, and on the
// service of azuretest.
package azbucket
