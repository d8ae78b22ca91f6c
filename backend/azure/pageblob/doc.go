// Package pageblob keeps recovery points in a container of Azure Blob storage
// as what Azure makes disks of: each disk of a machine is a page blob, and each
// point a set of snapshots of these, every one of them a fixed VHD. A failover
// needs no conversion, and no byte has to travel through this process.
//
//	store := pageblob.New(containerClient, pageblob.Options{})
//	draft, err := store.Create(ctx, point)      // replication.Copy writes it
//	err = store.Process(ctx, machine)           // points of what was received
//	image, err := store.Open(ctx, machine, id)  // a BlobImage, too
//
// A draft is staged: what is written goes to segments, block blobs of up to 8
// MiB that say themselves what is in them, so that an interrupted draft finds
// them again. Commit puts a manifest of where each byte lies, and the point is
// received. [Store.Process] brings it to the page blobs, snapshots them, and
// deletes the segments: only then is the point listed. So data is safe as soon
// as it is sent, and at the speed of block blobs, while a page blob takes 60
// MiB/s.
//
// Here live the store, its format and what it asks of Azure. Making managed
// disks and machines of snapshots belongs to backend/azure; what is worth
// keeping, and for how long, to recoverypoint.
//
// # In the container
//
//	m/<machine>/head                  what there is: changed as one, by its ETag
//	m/<machine>/s/<draft>/<epoch>-<n> a segment
//	m/<machine>/s/<draft>/received-…  the manifest of a received point
//	m/<machine>/p/<point>.…           the manifest of a processed point
//	m/<machine>/d/<disk>-<draft>.vhd  a page blob, with its snapshots
//
// The head is JSON; manifest and segment are described where they are written.
// Nothing but the head ever changes, and what no head names is left over: Prune
// deletes it. Disks are named by hashes, because their IDs may be any text.
//
// # The page blobs
//
// A disk's blob holds one point's content at a time, which the head tells. A
// point is applied over its parent: where the blob holds another point (several
// points were written over one), our own records tell what lies between, and
// that is written as well; if it is much, or if nobody knows what the blob
// holds, the parent's snapshot is copied over the blob by Azure first. A point
// over zeros gets blobs of its own.
//
// Azure takes at most 8 TiB, and of those only disks up to 4,095 GiB can be
// attached; the disk of the VHD is the machine's, filled up with zeros to whole
// MiB, 20 at least.
//
// # Two processes
//
// A draft that another process creates takes the machine's draft over; the old
// one's Commit fails with dr.ErrFenced. Process gives itself the turn in the
// head, then takes the blobs' leases, from whoever has them, and looks again
// whether it still has the turn; each request that writes to a page blob carries
// the lease. So a process that was thought dead, and wakes up, is refused by
// Azure itself. A lease that ran out without anybody having taken the turn is
// dr.ErrConflict: Process again.
//
// What another process can do to a reader: delete the point. Then its snapshots
// are gone, and reading fails with dr.ErrNotFound. Within one Store they stay
// until the image is closed.
//
// # Bounds
//
// A draft holds Concurrency+1 segments of 8 MiB, readers of staged data share
// twelve more, Process four MiB for each request in flight. What grows is the map
// of a draft: 24 bytes a piece, a piece for each write that does not go on
// where the one before ended. Azure bills what is written to a blob between two
// snapshots, equal bytes too: they are best left out by block sums.
//
// A page blob may have any number of snapshots, but a thousand make listings
// slow; each costs the head 150 bytes, which is read and written with each
// change.
//
// # Not verified on
//
// Azure itself. It is tested on Azurite, and on azuretest's service, which was
// written from Azure's documentation. Whether a snapshot of a blob that
// somebody leases can be deleted is not documented: if it can't, Prune does it
// later.
package pageblob
