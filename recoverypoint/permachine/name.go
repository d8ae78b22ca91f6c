package permachine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// plainBytes stand for themselves in a name. Capitals don't: file systems may
// ignore case.
const plainBytes = "abcdefghijklmnopqrstuvwxyz0123456789-"

// longest is the length of a name, which file systems and vaults' buckets bear.
const longest = 200

// Name is a name for a machine's store in a folder or a bucket: letters, digits,
// '-' and '_', at most 200 bytes. Different machines have different names, also
// where case is ignored. Other bytes of the ID than lower-case letters, digits
// and '-' are written as "_3f"; an ID that is too long for that is told by its
// hash, and can't be told from the name again.
func Name(m dr.MachineID) string {
	var b strings.Builder
	b.WriteString("m-")
	for _, c := range []byte(m) {
		if strings.IndexByte(plainBytes, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	if b.Len() > longest {
		sum := sha256.Sum256([]byte(m))
		return "h-" + hex.EncodeToString(sum[:])
	}
	return b.String()
}

// Machine is the machine whose store has this name; false for a name that Name
// doesn't give, or that is a hash.
func Machine(name string) (dr.MachineID, bool) {
	rest, ok := strings.CutPrefix(name, "m-")
	var id []byte
	for ok && rest != "" {
		c := rest[0]
		rest = rest[1:]
		if c == '_' && len(rest) >= 2 {
			x, err := hex.DecodeString(rest[:2])
			if err != nil {
				return "", false
			}
			c, rest = x[0], rest[2:]
		}
		id = append(id, c)
	}
	m := dr.MachineID(id)
	return m, ok && Name(m) == name // what isn't written as Name would is not its
}
