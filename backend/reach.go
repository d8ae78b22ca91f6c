package backend

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Reacher is an ability of backends: whether the platform lets people in.
type Reacher interface {
	// Reach tells whether somebody at from gets to TCP ports of a machine, as
	// far as the platform decides; what is inside the guest is another matter
	// ([Inspector]). from is an address or a prefix, "203.0.113.0/24", or
	// "Internet" for everybody; something else is dr.ErrInvalid. It changes
	// nothing. What can't be told is unknown.
	Reach(ctx context.Context, id dr.MachineID, from string, ports ...int) (Reach, error)
}

// Reach is what a platform says of the way to a machine.
type Reach struct {
	Running Fact `json:"running"`
	// PublicAddress: the machine has one, which is Detail.
	PublicAddress Fact `json:"publicAddress"`
	// Private is the address inside its network, "" if it isn't known.
	Private string `json:"private,omitempty"`
	// Allowed says of each port that was asked for whether rules let it in.
	Allowed map[int]Fact `json:"allowed,omitempty"`
}
