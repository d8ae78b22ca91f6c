package azure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Tags on everything that this library makes. The first names the machine that
// a resource belongs to, and is what Remove goes by.
const (
	tagMachine = "lifeboat-machine" // the replica's ID
	tagKey     = "lifeboat-key"     // the placement's: which protection, and which run
	tagDisk    = "lifeboat-disk"    // which of the machine's disks
	tagPoint   = "lifeboat-point"   // the point that a snapshot is of
)

// short is a name of anything, for a resource's name.
func short(parts ...string) string {
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(h[:10])
}

// replicaID is where the replica of a key is found again, in any process.
func replicaID(key string) dr.MachineID { return dr.MachineID("lb-" + short("replica", key)) }

func isReplicaID(id dr.MachineID) bool { return strings.HasPrefix(string(id), "lb-") }

// place is where a resource is: names are compared without case, as Azure does.
type place struct{ group, name string }

// parseID reads a resource ID.
func parseID(id string) (place, error) {
	parts := strings.Split(strings.Trim(id, "/"), "/")
	if len(parts) < 8 || !strings.EqualFold(parts[0], "subscriptions") || !strings.EqualFold(parts[2], "resourceGroups") || parts[3] == "" || parts[7] == "" {
		return place{}, fmt.Errorf("%w: resource ID %q", dr.ErrInvalid, id)
	}
	return place{parts[3], parts[len(parts)-1]}, nil
}

func (a *Azure) computeID(kind string, p place) string {
	return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/%s/%s", a.opts.Subscription, p.group, kind, p.name)
}

func (a *Azure) networkID(kind string, p place) string {
	return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Network/%s/%s", a.opts.Subscription, p.group, kind, p.name)
}

func sameID(a, b string) bool { return strings.EqualFold(strings.Trim(a, "/"), strings.Trim(b, "/")) }

// machineName makes a name that Azure takes for a machine: letters, digits and
// hyphens, a letter or digit at both ends, 60 at most so that what belongs to
// the machine can be named after it.
func machineName(name string) string {
	var b strings.Builder
	for _, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	s := b.String()
	return strings.Trim(s[:min(len(s), 60)], "-")
}

// tagValue fits what Azure takes: 256 characters at most.
func tagValue(s string) string {
	if len(s) <= 256 {
		return s
	}
	return s[:200] + "~" + short(s)
}

// deref returns what p points at, or the zero value: the SDK's structures are
// of pointers throughout.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// keyOf makes resource IDs comparable.
func keyOf(id string) string { return strings.ToLower(strings.Trim(id, "/")) }

// cut splits "collection/point".
func cut(name string) (set, point string, ok bool) { return strings.Cut(name, "/") }

// leaseID is the same for the same purpose, in any process.
func leaseID(id dr.MachineID, what string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(string(id)+"/"+what)).String()
}
