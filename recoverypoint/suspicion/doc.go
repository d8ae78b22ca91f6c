// Package suspicion tells recovery points that look like mass encryption from
// those that look like work. It is pure: it judges a machine's points by the
// statistics that their copies gathered (dr.ChangeStats), opens nothing and
// keeps nothing, so that points are judged anew whenever somebody chooses one,
// and by better rules once there are some. Nothing that reads disks may live
// here: package failover/cleanroom does.
//
// # What is looked for
//
// Encryption makes noise of what could be compressed, in its place. So do
// archives that are written where a deleted log was, but they are few among
// blocks that stay what they were. What counts is Turned (blocks that packed
// before and don't now), its share of all blocks written over such (Over), and
// whether the blocks grew by more than others shrank. Each machine is compared
// with its own past by median and deviation from it, and slow encryption is
// summed up over points until the sum is out of the ordinary.
//
// Where a store can't tell how blocks packed (it is no dr.Packer) only the
// number of blocks written that look random is compared with the machine's
// past, which takes some points to know and mistakes a large import for an
// attack.
//
// # What is not found
//
// Encryption of so little that it drowns in the machine's work, as of only the
// first 4 KiB of each file or of small files on a busy machine; of what was
// compressed already (media, archives, encrypted volumes); into new files in
// space that was never used, while the old ones are only unlinked; slower than
// what the machine does anyway. docs/decisions/0021 has the figures. A point
// that isn't suspicious is not thereby clean: scan it (failover/cleanroom).
package suspicion
