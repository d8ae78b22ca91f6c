package dr

import (
	"context"
	"maps"
)

// fencesKey is where a context keeps them.
type fencesKey struct{}

// WithFences returns a context under which what is done is done by the holder
// of these claims: by resource, the epochs that [Claims] gave. [Actions.Exec]
// sets those of the run's locks, so every engine's actions have them, and they
// reach the platforms through whatever is called with that context. Fences
// that ctx has already stay, unless one of the same resource is given.
//
// A backend remembers the highest epoch of each resource beside the machine
// that it changed, and refuses a lower one with [ErrFenced]: so a worker that
// stood still while another took its claim over does nothing when it wakes.
// Calls without fences are nobody's claim, and are not refused.
func WithFences(ctx context.Context, epochs map[string]uint64) context.Context {
	if len(epochs) == 0 {
		return ctx
	}
	all := Fences(ctx)
	if all == nil {
		all = make(map[string]uint64, len(epochs))
	}
	maps.Copy(all, epochs)
	return context.WithValue(ctx, fencesKey{}, all)
}

// Fences returns the epochs, by resource, under which ctx acts; nil if it has
// none. The map is the caller's own.
func Fences(ctx context.Context) map[string]uint64 {
	all, _ := ctx.Value(fencesKey{}).(map[string]uint64)
	return maps.Clone(all)
}
