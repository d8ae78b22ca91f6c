package pageblob

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/zeebo/blake3"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/vhd"
)

// maxDisk is the largest disk, in bytes: Azure's largest page blob has 8 TiB,
// of which the footer takes 512 and the disk is a whole number of MiB.
const maxDisk = 8<<40 - vhd.Unit

const (
	root       = "m/"
	headName   = "head"
	stageDir   = "s/"
	pointDir   = "p/"
	diskDir    = "d/"
	metaPoint  = "lifeboatpoint" // keys of a snapshot's metadata
	metaDraft  = "lifeboatdraft"
	receivedAs = "received-"
)

// machineDir is the folder of a machine. Azure wants no part of a name to end
// with a dot, and no machine has an equals sign in its ID.
func machineDir(m dr.MachineID) string {
	s := string(m)
	if strings.HasSuffix(s, ".") {
		s += "="
	}
	return root + s + "/"
}

// machineOf is the inverse of machineDir, for any name below the folder.
func machineOf(name string) (m dr.MachineID, rest string, ok bool) {
	s, ok := strings.CutPrefix(name, root)
	if !ok {
		return "", "", false
	}
	dir, rest, ok := strings.Cut(s, "/")
	if !ok {
		return "", "", false
	}
	m = dr.MachineID(dir)
	if strings.HasSuffix(dir, ".=") {
		m = m[:len(m)-1]
	}
	if m.Validate() != nil || machineDir(m) != root+dir+"/" {
		return "", "", false
	}
	return m, rest, true
}

// blobName names a disk's page blob within the machine's folder. A line of
// points that begins with zeros has blobs of its own, named after the draft
// that it began with.
func blobName(disk dr.DiskID, draft string) string {
	h := blake3.Sum256([]byte(disk))
	return diskDir + hex.EncodeToString(h[:12]) + "-" + draft + ".vhd"
}

// vhdID is the same for all VHDs of a disk.
func vhdID(m dr.MachineID, disk dr.DiskID) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("lifeboat:"+string(m)+"/"+string(disk)))
}

// segmentName is that of the n-th segment which the epoch's writer staged: in
// the order of names later ones win.
func segmentName(epoch uint64, n int) string { return fmt.Sprintf("%016x-%08x", epoch, n) }

func isSegmentName(s string) bool {
	return len(s) == 25 && s[16] == '-' && isHex(s[:16]) && isHex(s[17:])
}

func isNonce(s string) bool { return len(s) == 16 && isHex(s) }

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
