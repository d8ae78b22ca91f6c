package hyperv

import (
	"encoding/xml"
	"fmt"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// item is an Msvm_KvpExchangeDataItem, which Hyper-V hands out as CIM-XML in an
// array of strings.
type item struct {
	Name, Data string
}

// maxItem bounds the text of one item: a name has 512 characters at most and a
// value 2,048, each of which XML may write as an entity of several.
const maxItem = 64 << 10

// parseItem reads the text of an item. Guests write some of them.
func parseItem(text string) (item, error) {
	if len(text) > maxItem {
		return item{}, fmt.Errorf("%w: an exchange item of %d bytes", dr.ErrCorrupt, len(text))
	}
	var x struct {
		XMLName xml.Name `xml:"INSTANCE"`
		Props   []struct {
			Name  string `xml:"NAME,attr"`
			Value string `xml:"VALUE"`
		} `xml:"PROPERTY"`
	}
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return item{}, fmt.Errorf("%w: an exchange item: %w", dr.ErrCorrupt, err)
	}
	var i item
	for _, p := range x.Props {
		switch p.Name {
		case "Name":
			i.Name = p.Value
		case "Data":
			i.Data = p.Value
		}
	}
	return i, nil
}

// items reads those that can be read: what a guest writes may be anything.
func items(texts []string) map[string]string {
	m := map[string]string{}
	for _, t := range texts {
		if i, err := parseItem(t); err == nil && i.Name != "" {
			m[i.Name] = i.Data
		}
	}
	return m
}
