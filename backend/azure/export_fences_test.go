package azure

import "github.com/lifeboat-dr/lifeboat/dr"

// Distrust has every request of a call under fences preceded by a look at the
// record, however young the last one is: as if the process had stood still.
func (a *Azure) Distrust() { a.trust = -1 }

// ReplicaID is what the replica of a key is called.
func ReplicaID(key string) dr.MachineID { return replicaID(key) }

// UsualTrust is for how long a call under fences believes what it has read.
const UsualTrust = usualTrust
