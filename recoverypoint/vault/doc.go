// Package vault keeps recovery points in a folder or an object store, without
// any server: it is the embedded [recoverypoint.PointStore].
//
//	v, err := vault.OpenDir("/backup/vault", vault.Options{})
//	draft, err := v.Create(ctx, point)   // replication.Copy writes it
//	image, err := v.Open(ctx, machine, id)
//
// Disks are cut into chunks of 64 KiB. A chunk of zeros costs nothing, and one
// that equals the parent point's is not stored again. Chunks are compressed,
// optionally encrypted, and appended to segments, objects of up to 32 MiB that
// never change. Each disk of each point has a map, a persistent radix tree
// whose pages refer to 512 chunks or pages: a point writes only the pages that
// it changed and shares the others with its parent, so any point opens at once,
// and two points are compared without reading data. What is read is checked
// against the chunk's BLAKE3 sum, always.
//
// A point is there when the machine's head lists it, which is the last thing
// that a commit does. Everything before can be cut off anywhere; what a draft
// had stored is found again by its segments' footers.
//
// FORMAT.md, in this folder, describes every byte, and why no nonce repeats. Here live the store, its format and its
// bucket on a folder. Buckets on object stores live in packages of their own
// below this one, so that only who uses one links its client: azbucket is on
// Azure Blob storage. What is worth keeping and for how long belongs to
// recoverypoint.
//
// # Bounds
//
// Disks to 64 TiB (the format takes 4 PiB) of any size in bytes, 10,000 points a
// machine. A draft holds at most 768 map pages (15 MiB), 64 chunks written in
// part (4 MiB) and 8 parts of 1 MiB on their way to the disk, readers the page
// cache and the chunks that they are asked for: memory doesn't grow with the
// disk. Descriptions of points that were listed are kept in up to 16 MiB, about
// 14,000 points, for each of which a first List reads a small object.
//
// # Not verified on
//
// Windows and darwin are compiled and vetted, not run. Locks on network file
// systems are as good as those file systems' locks. Azure Blob storage was
// tested on Azurite, Microsoft's emulator.
package vault
