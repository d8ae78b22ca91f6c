package claims

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// slow holds the answer to a release back, which has been made.
type slow struct {
	*lossy
	once       *sync.Once
	made, tell chan struct{}
}

func (s slow) SwapHead(ctx context.Context, name, old string, data []byte) (string, error) {
	v, err := s.lossy.SwapHead(ctx, name, old, data)
	if bytes.Contains(data, []byte(`"last": "first"`)) {
		s.once.Do(func() {
			close(s.made)
			<-s.tell
		})
	}
	return v, err
}

// The answer to another's swap, of before, takes nothing away of the doubt about
// one that is on its way: that would claim for a run that has given up.
func TestAnswerOfBeforeADoubt(t *testing.T) {
	var fates []fate
	l := &lossy{fate: func() fate {
		if len(fates) == 0 {
			return fine
		}
		next := fates[0]
		fates = fates[1:]
		return next
	}}
	b := slow{l, &sync.Once{}, make(chan struct{}), make(chan struct{})}
	c := New(b, Options{})
	_, err := c.Acquire(t.Context(), "m", "first")
	require.NoError(t, err)
	released := make(chan error)
	go func() { released <- c.Release(t.Context(), "m", "first") }()
	<-b.made
	fates = []fate{fine, delayed, unread}
	_, err = c.Acquire(t.Context(), "m", "second")
	require.ErrorIs(t, err, errLine)
	close(b.tell)
	require.NoError(t, <-released)
	require.NoError(t, c.Release(t.Context(), "m", "second"))
	require.Len(t, l.late, 1)
	l.late[0]()
	_, err = c.Acquire(t.Context(), "m", "third")
	require.NoError(t, err)
}
