package hyperv

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/dr"
)

const anItem = `<INSTANCE CLASSNAME="Msvm_KvpExchangeDataItem"><PROPERTY NAME="Caption" PROPAGATED="true" TYPE="string"></PROPERTY><PROPERTY NAME="Data" TYPE="string"><VALUE>a &lt;b&gt; &amp; "c"</VALUE></PROPERTY><PROPERTY NAME="Name" TYPE="string"><VALUE>OSName</VALUE></PROPERTY><PROPERTY NAME="Source" TYPE="uint16"><VALUE>2</VALUE></PROPERTY></INSTANCE>`

func TestItem(t *testing.T) {
	i, err := parseItem(anItem)
	require.NoError(t, err)
	require.Equal(t, item{"OSName", `a <b> & "c"`}, i)

	for _, bad := range []string{"", "nothing", "<INSTANCE>", "<OTHER/>", strings.Repeat("x", maxItem+1)} {
		_, err := parseItem(bad)
		require.ErrorIs(t, err, dr.ErrCorrupt, "%.20q", bad)
	}
	require.Equal(t, map[string]string{"OSName": `a <b> & "c"`}, items([]string{"garbage", anItem, "<INSTANCE/>"}))
}

func FuzzItem(f *testing.F) {
	f.Add(anItem)
	f.Add("<INSTANCE/>")
	f.Fuzz(func(t *testing.T, text string) {
		i, err := parseItem(text)
		if err != nil && i != (item{}) {
			t.Fatal("an item and an error")
		}
	})
}
