package dr

import (
	"context"
	"iter"
	"time"
)

// Claim is what [Claims] know of one resource.
type Claim struct {
	Resource string `json:"resource"`
	// Owner holds it; "": nobody does.
	Owner string `json:"owner,omitempty"`
	// Epoch is the last that was given for the resource. The next holding's
	// is higher.
	Epoch uint64 `json:"epoch"`
	// Since is when the claim was taken, or given back, by the clock of who did
	// it; zero where that isn't kept. Nothing is decided by it.
	Since time.Time `json:"since,omitzero"`
}

// ClaimLister is an ability of Claims: to show them, to people and to whatever
// moves them to another place.
type ClaimLister interface {
	// Claims yields all resources that were ever claimed, also those that
	// nobody holds now, ordered by their names. What changes meanwhile may be
	// yielded as it was or as it is.
	Claims(ctx context.Context) iter.Seq2[Claim, error]
}

// EpochRaiser is an ability of Claims: to be given the epochs of other claims
// of the same resources, in whose place they are to be used.
type EpochRaiser interface {
	// Raise makes all epochs that are given for the resource from now on
	// higher than atLeast. It never lowers one, so it can be repeated.
	// ErrBusy, naming the holder, if the resource is held under an epoch that
	// is lower: a holder's epoch doesn't change under it.
	Raise(ctx context.Context, resource string, atLeast uint64) error
}

// NextEpoch is the epoch that claims give after last, 0 if they never gave one:
// the next number, or the seconds since 1970 if those are more. So epochs rise
// also when what the claims were kept in is lost, or restored from a backup:
// what platforms and records remember of it is lower. That needs a clock that
// isn't before the last holding, and less than a holding a second; else
// [EpochRaiser] helps.
func NextEpoch(last uint64, now time.Time) uint64 {
	return max(last+1, uint64(max(0, now.Unix())))
}

// ClaimSeizer is an ability of Claims, for the person at three in the morning
// who has a claim whose holder is never coming back.
type ClaimSeizer interface {
	// Seize takes the claim from who holds it and gives it to another, under
	// the next epoch. With to == "" nobody holds it then. ErrConflict, naming
	// the holder, unless from holds it: so a person seizes what they saw, and
	// not what has come after.
	//
	// It is dangerous: a holder that is alive is not stopped by it. It hears
	// of it only where the platform compares epochs (ErrFenced). Make sure
	// that its process has ended and that its journal is lost for good; if it
	// is not, open the journal and cancel the run.
	Seize(ctx context.Context, resource, from, to string) (epoch uint64, err error)
}

// RecordImporter is an ability of Records: to take over those of another place.
type RecordImporter interface {
	// Import stores p as it is, with its version, if that is higher than the
	// stored one or there is none; versions are never lowered, because names
	// are made of them. A record that is there already, the same in all, is
	// success; another one of that version or a higher one is ErrConflict. An
	// Epoch below the stored one is ErrFenced.
	Import(ctx context.Context, p Protection) error
}
