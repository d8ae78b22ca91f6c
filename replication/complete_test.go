package replication_test

import (
	"bytes"
	"context"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/suspicion"
	"github.com/lifeboat-dr/lifeboat/replication"
)

type taking struct{ void }

func (taking) Adopt(context.Context, dr.Image) (bool, error) { return true, nil }

type resuming struct {
	void
	durable int64
}

func (r resuming) Durable(context.Context, dr.DiskID) iter.Seq2[dr.Extent, error] {
	return func(yield func(dr.Extent, error) bool) {
		if r.durable > 0 {
			yield(dr.Extent{Len: r.durable}, nil)
		}
	}
}

// Of what the copy has not seen nobody may say that it is clean.
func TestStatisticsOfHalfACopyAreNotComplete(t *testing.T) {
	b := make([]byte, 8*blk)
	rand.NewChaCha8([32]byte{7}).Read(b[:4*blk])
	copy(b[4*blk:], bytes.Repeat([]byte("plain text "), 4*blk/11))
	p := dr.Point{ID: "2", Parent: "1", Machine: dr.Machine{ID: "m", Disks: []dr.Disk{{ID: "a", Size: int64(len(b))}}}}
	for name, c := range map[string]struct {
		draft    dr.Draft
		blank    bool
		complete bool
		blocks   int64
	}{
		"whole, over nothing":                      {void{}, true, true, 8},
		"whole, over what nobody knows":            {void{}, false, false, 8},
		"taken by the platform":                    {taking{}, true, false, 0},
		"gone on with":                             {resuming{durable: 2 * blk}, true, false, 6},
		"could be gone on with, and was not begun": {resuming{}, true, true, 8},
	} {
		r, err := replication.Copy(t.Context(), c.draft, flat{p, b}, replication.CopyOptions{Have: replication.History{Blank: c.blank}, Measure: true})
		require.NoError(t, err, name)
		s := r.Point.Changes
		require.Equal(t, c.complete, s.Complete, name)
		require.Equal(t, c.blocks, s.Blocks, name)
		require.Zero(t, s.Known+s.Fresh+s.Over+s.Turned+s.Grown+s.Shrunk, "%s: no Packer, nothing known", name)
		if c.blocks == 8 {
			require.EqualValues(t, 4, s.Dense, name)
		}
		v := suspicion.Judge([]dr.Point{{ID: "1"}, r.Point}, suspicion.Options{})
		require.Equal(t, c.complete, v[1].Judged, name)
	}
}
