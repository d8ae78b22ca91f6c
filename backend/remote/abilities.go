package remote

import (
	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// Abilities by the names that they have on the wire.
const (
	canList      = "list"
	canShutdown  = "shutdown"
	canQuiesce   = "quiesce"
	canTellLive  = "captures-live"
	canSweep     = "sweep"
	canForget    = "forget"
	canProbe     = "probe"
	canPreflight = "preflight"
	canCheck     = "check"
	canInspect   = "inspect"
	canReach     = "reach"
	canReceive   = "receive"
	canRoom      = "room"
	canNetworks  = "networks"

	canChanges = "changes" // of images
	canExtents = "extents"
	canSettle  = "settle"
	canLinger  = "linger"
	canSums    = "sums" // and drafts
	canZero    = "zero"
	canDurable = "durable"
	canPacked  = "packed"
)

type names []string

func can[T any](n *names, v any, name string) {
	if _, ok := dr.As[T](v); ok {
		*n = append(*n, name)
	}
}

// backendAbilities are those of b that the client may use.
func backendAbilities(b backend.Backend, scope Scope) names {
	var n names
	can[backend.Lister](&n, b, canList)
	can[backend.Shutdowner](&n, b, canShutdown)
	can[backend.Quiescer](&n, b, canQuiesce)
	can[backend.LiveCapturer](&n, b, canTellLive)
	can[backend.Sweeper](&n, b, canSweep)
	can[backend.Forgetter](&n, b, canForget)
	can[backend.Prober](&n, b, canProbe)
	can[backend.Preflighter](&n, b, canPreflight)
	can[backend.Checker](&n, b, canCheck)
	can[backend.Inspector](&n, b, canInspect)
	can[backend.Reacher](&n, b, canReach)
	can[backend.Receiver](&n, b, canReceive)
	if scope.Machines == nil {
		can[backend.Roomer](&n, b, canRoom)
		can[backend.NetworkLister](&n, b, canNetworks)
	}
	return n
}

func imageAbilities(img dr.Image) names {
	var n names
	can[dr.ChangeTracker](&n, img, canChanges)
	can[dr.Mapper](&n, img, canExtents)
	can[dr.Settler](&n, img, canSettle)
	can[dr.Lingerer](&n, img, canLinger)
	can[dr.Summer](&n, img, canSums)
	return n
}

// draftAbilities leave out dr.Adopter: the image would have to be here.
func draftAbilities(d dr.Draft) names {
	var n names
	can[dr.Zeroer](&n, d, canZero)
	can[dr.Resumer](&n, d, canDurable)
	can[dr.Summer](&n, d, canSums)
	can[dr.Packer](&n, d, canPacked)
	return n
}
