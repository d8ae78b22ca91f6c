// Package claims keeps [dr.Claims] beside the recovery site, on anything that
// can compare and swap: the bucket that holds the recovery points, or a
// directory.
//
//	c := claims.New(bucket, claims.Options{})   // vault's buckets, azbucket's among them
//	c := claims.NewDir("/srv/dr/claims", claims.Options{})
//	e, err := embedded.Open(path, embedded.Options{Claims: c})
//
// Whatever engines share one such place, in one process or in many, on one
// host or on many, never hold one resource at once, and no epoch is ever given
// twice.
//
// # What is kept
//
// One small JSON object a resource: who holds it, under which epoch, since
// when. It stays when the claim is given back, because epochs never fall. If it
// is lost, the next epoch is the seconds since 1970 (dr.NextEpoch), which is
// higher than what platforms remember, unless the clock is behind: then they
// refuse it, and [Claims.Raise] helps. People may read these objects at any time, and should
// change them by [Claims.Seize], [Claims.Raise] and [Claims.Repair] only.
//
// Objects are named after their resources, with all bytes but lower-case
// letters, digits and '-' escaped, so that names differ also where case is
// ignored; a long name is cut, and told apart by its hash.
//
// # What holds where
//
// A bucket holds what its SwapHead holds: on Azure a conditional put (If-Match
// and If-None-Match), which is atomic in the service.
//
// A directory needs no locks. A change is a new file, written and synced under
// another name and then linked to the next number, which succeeds for one of
// all who try; the highest number is what counts. That is atomic on local file
// systems and, by the server, on NFS (version 3 and 4) and on SMB shares of
// file systems with hard links (NTFS, ReFS from Windows Server 2022 on, ext4
// or XFS below Samba). A process that stood still, and whose lease of the share
// has run out meanwhile, links to a number that is taken or is passed, and
// learns of it. File systems without hard links (FAT, exFAT, some appliances'
// shares) are refused with dr.ErrUnsupported. What a server acknowledges but
// doesn't keep through its own power cut (an NFS export with "async") can't be
// made good here. A share that isn't mounted is noticed by the folder that is
// missing, see [NewDir], and by what this process has seen there before. One whose
// server is gone, and that hangs, keeps a call for as long as its context lasts.
//
// # Answers that are lost
//
// Each content has a nonce. When a swap fails and its effect is in doubt, the
// content is read back; if the swap had no effect yet it is made again, so that
// of the two only one can ever have any. If that can't be found out either, the
// caller gets the error, and may ask again; Release then changes the object in
// any case, so that what is still on its way is refused.
//
// What may not live here: who may hold what, and for how long. A claim doesn't
// run out, because what it guards doesn't stop by itself.
package claims
