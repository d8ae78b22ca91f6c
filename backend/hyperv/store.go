package hyperv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// The record is kept in the machine's own configuration, as key-value pairs of
// the data exchange component that only the host sees (Source 4). They move with
// the machine, and neither guests nor people meet them. A value has 2,048
// characters at most, so a longer record stands in items of its own, of which
// the first names the parts and their sum: changing it is one step.
const (
	recordName = "lifeboat"
	hostOnly   = 4    // Msvm_KvpExchangeDataItem.Source
	maxValue   = 2000 // of 2,048
	maxParts   = 64
)

// movedOn is what the first generation's item says once there is another one: an
// earlier Lifeboat, which looks for no other, refuses the machine then. Were the
// item gone, it would make a second replica of the key, and take a torn disk's
// machine for one that holds nothing.
const movedOn = `{"v":2,"see":"lifeboat@"}`

// parted is the first item of a record that has parts.
type parted struct {
	Parts string `json:"parts"` // their items are called recordName.Parts.0 and so on
	Count int    `json:"count"`
	Sum   string `json:"sum"` // SHA-256 of their values in a row, 128 bits of it
}

func partName(parts string, i int) string { return recordName + "." + parts + "." + strconv.Itoa(i) }

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// recordText puts a record together from a machine's host-only items.
func recordText(kept map[string]string) (string, error) {
	_, name := generationOf(kept)
	first := kept[name]
	if !strings.HasPrefix(first, `{"parts"`) {
		return first, nil
	}
	var p parted
	if err := json.Unmarshal([]byte(first), &p); err != nil {
		return "", err
	}
	if p.Count < 1 || p.Count > maxParts {
		return "", fmt.Errorf("%d parts", p.Count)
	}
	var b strings.Builder
	for i := range p.Count {
		b.WriteString(kept[partName(p.Parts, i)])
	}
	if sumOf(b.String()) != p.Sum {
		return "", fmt.Errorf("its %d parts are not those that were written", p.Count)
	}
	return b.String(), nil
}

// itemsOf are the items that keep a record's text: the first one, and parts.
// Parts never have the names of those that are there, unless they are the same.
func itemsOf(text string) (first string, parts map[string]string) {
	if len(text) <= maxValue {
		return text, nil
	}
	p := parted{Sum: sumOf(text)}
	p.Parts = p.Sum[:8]
	parts = map[string]string{}
	for rest := text; rest != ""; p.Count++ {
		n := min(len(rest), maxValue)
		parts[partName(p.Parts, p.Count)] = rest[:n]
		rest = rest[n:]
	}
	b, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return string(b), parts
}

// save writes the record, if it isn't what the machine has. The machine's lock
// must be held; other processes don't know it, so the items must be what m was
// read with: else it is ErrConflict. m then carries the record.
func (v *HyperV) save(ctx context.Context, m *machine, r record) error {
	text := r.text(m.id)
	raising := m.guard.raising()
	if text == m.record.text(m.id) && m.unread == nil && !raising {
		return nil
	}
	first, parts := itemsOf(text)
	if len(parts) > maxParts {
		return &explained{fmt.Errorf("%w: the record of a machine of %d disks is too large", dr.ErrUnsupported, len(m.disks)), "protect it with an agent inside of the guest"}
	}
	at := time.Now()
	now, err := v.kept(ctx, m.node, m.settings.Path)
	if err != nil {
		return err
	}
	if now == nil {
		return errNoExchange
	}
	was, name := generationOf(m.kept)
	if is, _ := generationOf(now); is != was || now[name] != m.kept[name] && (raising || now[name] != first) {
		if err := m.guard.passed(now, at); err != nil {
			return err
		}
		return &explained{fmt.Errorf("%w: another process has changed what the machine's record says", dr.ErrConflict), "see that no two of them work on one machine"}
	}
	fresh := maps.Clone(parts)
	maps.DeleteFunc(fresh, func(name, value string) bool { return now[name] == value })
	if err := v.putItems(ctx, m, now, fresh); err != nil {
		return err
	}
	if raising {
		name = generationName(was + 1)
	}
	if now[name] != first {
		if err := v.putItems(ctx, m, now, map[string]string{name: first}); err != nil {
			return err
		}
	}
	if raising { // another may have begun the same one
		if now, err = v.kept(ctx, m.node, m.settings.Path); err != nil {
			return err
		}
		if now[name] != first {
			return &explained{fmt.Errorf("%w: another process has begun to change the machine at the same moment", dr.ErrConflict), "see that no two of them work on one machine"}
		}
	}
	m.guard.wrote(r, at)
	m.kept, m.record, m.unread = now, r, nil
	// What a former record's parts were is only in the way.
	var old []string
	for item := range now {
		_, used := parts[item]
		part, generation := strings.HasPrefix(item, recordName+"."), strings.HasPrefix(item, recordName+"@")
		if part && !used || generation && item != name {
			old = append(old, item)
		}
	}
	if name != recordName && now[recordName] != movedOn {
		if err := v.putItems(ctx, m, now, map[string]string{recordName: movedOn}); err != nil {
			v.options.Log.WarnContext(ctx, "an earlier Lifeboat would not see that the machine has a record", "machine", m.id, "error", err)
		}
	}
	if len(old) == 0 {
		return nil
	}
	slices.Sort(old)
	if err := v.dropItems(ctx, m, old); err != nil {
		v.options.Log.WarnContext(ctx, "parts of an older record are left on the machine", "machine", m.id, "error", err)
	}
	for _, name := range old {
		delete(now, name)
	}
	return nil
}

// errNoExchange is of machines made by hand, without what Hyper-V gives to each.
var errNoExchange = &explained{fmt.Errorf("%w: the machine's configuration has no data exchange component, and nothing can be kept on it", dr.ErrUnsupported), "make its configuration anew with the integration services, and attach its disks to that"}

// kept reads the host-only items of a machine's settings; nil: it has no place for
// any.
func (v *HyperV) kept(ctx context.Context, n *node, settings host.Ref) (map[string]string, error) {
	all, err := n.components(ctx, settings, "Msvm_KvpExchangeComponentSettingData")
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return keptIn(all)
}

// keptIn reads host-only items. One of ours that can't be read is an error: it
// may say that disks are torn.
func keptIn(components []host.Object) (map[string]string, error) {
	m := map[string]string{}
	for _, o := range components {
		for _, text := range o.Props.Strings("HostOnlyItems") {
			i, err := parseItem(text)
			if err != nil && strings.Contains(text, recordName) {
				return nil, err
			}
			if err == nil {
				m[i.Name] = i.Data
			}
		}
	}
	return m, nil
}

// putItems adds or changes items, an empty value takes one away, and says in now
// what is there then.
func (v *HyperV) putItems(ctx context.Context, m *machine, now, put map[string]string) error {
	var add, change, drop []string
	for _, name := range slices.Sorted(maps.Keys(put)) {
		_, there := now[name]
		switch {
		case put[name] == "" && there:
			drop = append(drop, name)
		case put[name] == "":
		case there:
			change = append(change, name)
		default:
			add = append(add, name)
		}
	}
	for _, step := range []struct {
		method string
		names  []string
	}{{"AddKvpItems", add}, {"ModifyKvpItems", change}} {
		if len(step.names) == 0 {
			continue
		}
		if err := v.invokeItems(ctx, m, step.method, step.names, put); err != nil {
			return err
		}
	}
	if len(drop) > 0 {
		if err := v.dropItems(ctx, m, drop); err != nil {
			return err
		}
	}
	for name, value := range put {
		if now[name] = value; value == "" {
			delete(now, name)
		}
	}
	return nil
}

func (v *HyperV) dropItems(ctx context.Context, m *machine, names []string) error {
	return v.invokeItems(ctx, m, "RemoveKvpItems", names, nil)
}

func (v *HyperV) invokeItems(ctx context.Context, m *machine, method string, names []string, values map[string]string) error {
	texts := make([]string, 0, len(names))
	for _, name := range names {
		t, err := m.node.conn.Text(ctx, "Msvm_KvpExchangeDataItem", host.Props{"Name": name, "Data": values[name], "Source": uint16(hostOnly)})
		if err != nil {
			return err
		}
		texts = append(texts, t)
	}
	_, err := m.node.call(ctx, m.node.management, method, host.Props{"TargetSystem": m.system.Path, "DataItems": texts}, output{})
	return err
}
