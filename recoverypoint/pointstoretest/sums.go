package pointstoretest

import (
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/blocksum"
)

// sumPromises are about block sums, of images and of drafts.
var sumPromises = []promise{
	{"sums of an image are those of its bytes", func(k *kit) {
		content := disks{"d": fill("d", 5*block+512), "short": fill("s", 512), "zero": make([]byte, block+512), "tail": make([]byte, 2*block+512)}
		clear(content["d"][block : 2*block])
		content["d"][3*block] = 0
		content["tail"][2*block+511] = 1
		k.put("m", "p", "", content)
		img := k.open("m", "p")
		defer k.close(img)
		k.sums(img, content)
	}},

	{"sums of a draft are of its present content", func(k *kit) {
		old := disks{"d": fill("old", 4*block+512), "e": fill("e", block)}
		k.put("m", "old", "", old)
		now := old.clone()
		now["e"] = append(now["e"], make([]byte, block)...)
		p := point("m", "p", "old", now)
		d := k.create(p)
		k.sums(d, now)
		k.write(d, "d", fill("new", 10), block-5)
		copy(now["d"][block-5:], fill("new", 10))
		k.sums(d, now)
		k.zero(d, "d", 2*block, block)
		clear(now["d"][2*block : 3*block])
		k.zero(d, "d", 4*block, 512)
		clear(now["d"][4*block:])
		k.sums(d, now)
		k.write(d, "e", []byte{1}, block)
		now["e"][block] = 1
		k.sums(d, now)
		k.write(d, "d", fill("last", 512), 4*block)
		copy(now["d"][4*block:], fill("last", 512))
		k.sums(d, now)
		k.commit(d, p)
		img := k.open("m", "p")
		defer k.close(img)
		k.sums(img, now)
	}},

	{"sums of ranges that aren't there are refused", func(k *kit) {
		content := disks{"d": fill("d", 2*block+512)}
		p := k.put("m", "p", "", content)
		img := k.open("m", "p")
		defer k.close(img)
		p.ID, p.Parent = "q", "p"
		d := k.create(p)
		defer k.close(d)
		for _, v := range []any{img, d} {
			s := k.summer(v)
			for _, r := range []struct{ off, n int64 }{{1, 1}, {512, 1}, {0, 4}, {2 * block, 2}, {3 * block, 1}, {-block, 1}} {
				require.Error(k, s.Sums(k.ctx, "d", r.off, make([]dr.Sum, r.n)), "%T: %d sums from %d on", v, r.n, r.off)
			}
			require.ErrorIs(k, s.Sums(k.ctx, "nowhere", 0, make([]dr.Sum, 1)), dr.ErrNotFound, "%T: no such disk", v)
		}
	}},
}

func (k *kit) summer(v any) dr.Summer {
	k.Helper()
	s, ok := dr.As[dr.Summer](v)
	require.True(k, ok, "images and drafts of stores are dr.Summer; %T is not", v)
	return s
}

// sums compares all sums, asked for at once and in two parts.
func (k *kit) sums(v any, content disks) {
	k.Helper()
	s := k.summer(v)
	for id, b := range content {
		var want []dr.Sum
		for off := 0; off < len(b); off += block {
			want = append(want, blocksum.Sum(b[off:min(len(b), off+block)]))
		}
		for _, split := range []int{0, len(want) / 2} {
			got := make([]dr.Sum, len(want))
			for i := range got {
				got[i] = dr.Sum{0xff} // a sum that is not filled in must show
			}
			require.NoError(k, s.Sums(k.ctx, id, 0, got[:split]))
			require.NoError(k, s.Sums(k.ctx, id, int64(split)*block, got[split:]))
			require.Equal(k, want, got, "sums of disk %q", id)
		}
	}
}
