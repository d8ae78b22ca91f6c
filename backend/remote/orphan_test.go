package remote

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/faultyline"
)

// What a call opens whose caller has left before the answer came is closed: nobody
// else can, and a draft that stays open keeps all later ones out, a freeze the guest
// still.
func TestNobodyWaitsForWhatIsOpened(t *testing.T) {
	for name, open := range map[string]func(ctx context.Context, c *Client) (end func() error, err error){
		"draft": func(ctx context.Context, c *Client) (func() error, error) {
			d, err := c.Draft(ctx, "off", dr.Point{ID: "p"})
			if err != nil {
				return nil, err
			}
			return d.Close, nil
		},
		"capture": func(ctx context.Context, c *Client) (func() error, error) {
			img, err := c.Capture(ctx, "on", "p", dr.CrashConsistent)
			if err != nil {
				return nil, err
			}
			return img.Close, nil
		},
		"quiesce": func(ctx context.Context, c *Client) (func() error, error) {
			q, ok := dr.As[backend.Quiescer](c)
			require.True(t, ok)
			_, thaw, err := q.Quiesce(ctx, "on", dr.FileSystemConsistent)
			return func() error { return thaw(ctx) }, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := memory.New(memory.Options{QuiesceLimit: time.Minute})
			for _, id := range []dr.MachineID{"on", "off"} {
				require.NoError(t, b.Add(dr.Machine{ID: id, Power: dr.Off, Disks: []dr.Disk{{ID: "a", Size: size, Boot: true}}}))
			}
			require.NoError(t, b.Power("on", dr.On))
			line, c := behind(t, serve(t, b, ServeOptions{Open: 1}), DialOptions{grace: 50 * time.Millisecond})
			line.Set(faultyline.Weather{Delay: 150 * time.Millisecond})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(20*time.Millisecond, cancel)
			_, err := open(ctx, c)
			require.ErrorIs(t, err, context.Canceled)
			line.Set(faultyline.Weather{})
			// Only one may be open at a time.
			require.Eventually(t, func() bool {
				end, err := open(t.Context(), c)
				return err == nil && end() == nil
			}, time.Minute, 10*time.Millisecond)
			require.Equal(t, 3, line.Made(), "in the same session")
		})
	}
}
