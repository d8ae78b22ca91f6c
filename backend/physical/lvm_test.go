package physical

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// volumes answers LVM's commands as their manuals say.
type volumes struct {
	kind  map[string]string // segment types by path
	snaps map[string]string // by full name, what they are of
	log   []string
	full  bool
}

func (v *volumes) run(_ context.Context, argv ...string) ([]byte, error) {
	line := strings.Join(argv, " ")
	v.log = append(v.log, line)
	last := argv[len(argv)-1]
	switch {
	case argv[0] == "lvs" && strings.HasPrefix(last, "lv_name="):
		var out strings.Builder
		for name := range v.snaps {
			if strings.HasSuffix(name, "/"+strings.TrimPrefix(last, "lv_name=")) {
				fmt.Fprintln(&out, " ", name)
			}
		}
		return []byte(out.String()), nil
	case argv[0] == "lvs":
		kind, ok := v.kind[last]
		if !ok {
			return nil, errors.New("exit status 5: Failed to find logical volume")
		}
		line := fmt.Sprintf("  vg|%s|%s\n", last[strings.LastIndex(last, "/")+1:], kind)
		return []byte(strings.Repeat(line, 1+strings.Count(last, "extended"))), nil
	case argv[0] == "lvcreate":
		var name string
		for i, a := range argv {
			if a == "--name" {
				name = "vg/" + argv[i+1]
			}
		}
		if _, there := v.snaps[name]; there || v.full {
			return nil, errors.New("exit status 5: already exists, or insufficient free space")
		}
		v.snaps[name] = last
		return nil, nil
	case argv[0] == "lvremove":
		delete(v.snaps, last)
		return nil, nil
	}
	return nil, fmt.Errorf("unknown command %q", line)
}

func TestLVMCommands(t *testing.T) {
	v := &volumes{kind: map[string]string{"/dev/vg/thick": "linear", "/dev/vg/extended": "linear", "/dev/mapper/vg-x/thin": "thin"}, snaps: map[string]string{}}
	l := LVM{Run: v.run}
	require.ErrorIs(t, l.Takes(t.Context(), "/dev/sda"), dr.ErrUnsupported)
	require.NoError(t, l.Takes(t.Context(), "/dev/vg/thick"))
	require.NoError(t, l.Takes(t.Context(), "/dev/vg/extended"), "of two segments")
	_, _, thin, err := l.volume(t.Context(), "/dev/mapper/vg-x/thin")
	require.NoError(t, err)
	require.True(t, thin)

	thick := snapshotOf("m", "p", "d", "/dev/vg/thick")
	require.Regexp(t, `^lifeboat-[0-9a-f]{24}$`, thick.Name)
	at, err := l.Snapshot(t.Context(), thick)
	require.NoError(t, err)
	require.Equal(t, "/dev/vg/"+thick.Name, at)
	require.Equal(t, "lvcreate --quiet --autobackup n --permission r --setactivationskip n --snapshot --name "+thick.Name+" --extents 20%ORIGIN -- vg/thick", v.log[len(v.log)-1])
	_, err = l.Snapshot(t.Context(), thick)
	require.NoError(t, err, "one that a crash has left is replaced")

	of := snapshotOf("m", "p", "e", "/dev/mapper/vg-x/thin")
	_, err = l.Snapshot(t.Context(), of)
	require.NoError(t, err)
	require.NotContains(t, v.log[len(v.log)-1], "--extents")
	require.Len(t, v.snaps, 2)
	for range 2 {
		require.NoError(t, l.Remove(t.Context(), thick))
		require.NoError(t, l.Remove(t.Context(), of))
	}
	require.Empty(t, v.snaps)
	v.full = true
	_, err = l.Snapshot(t.Context(), thick)
	require.ErrorContains(t, err, "insufficient free space")
}
