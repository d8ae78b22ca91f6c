package hyperv

import (
	"context"

	"github.com/lifeboat-dr/lifeboat/backend/hyperv/host"
)

const (
	subtypeCard       = "Microsoft:Hyper-V:Synthetic Ethernet Port"
	subtypeConnection = "Microsoft:Hyper-V:Ethernet Connection"
)

// cardName is what a replica's card is called: by it the card is found again.
func cardName(id string) string { return "Lifeboat " + id }

// connect gives a replica the cards that it lacks, and connects all as wanted.
func (m *machine) connect(ctx context.Context, wanted []connection) error {
	if len(wanted) == 0 {
		return nil
	}
	n := m.node
	ports, err := n.components(ctx, m.settings.Path, classCard)
	if err != nil {
		return err
	}
	byName := map[string]host.Ref{}
	for _, o := range ports {
		byName[o.Props.String("ElementName")] = o.Path
	}
	present, err := n.components(ctx, m.settings.Path, classConnection)
	if err != nil {
		return err
	}
	byPort := map[string]host.Object{}
	for _, o := range present {
		byPort[key(host.Ref(o.Props.String("Parent")))] = o
	}
	for _, c := range wanted {
		port, ok := byName[cardName(c.nic.ID)]
		if !ok {
			props := host.Props{"ElementName": cardName(c.nic.ID)}
			if c.mac != "" {
				props["Address"], props["StaticMacAddress"] = c.mac, true
			}
			if port, err = m.addResource(ctx, classCard, subtypeCard, props); err != nil {
				return err
			}
		}
		have, connected := byPort[key(port)]
		switch {
		case c.sw.path == "" && connected:
			_, err = n.call(ctx, n.management, "RemoveResourceSettings", host.Props{"ResourceSettings": []host.Ref{have.Path}}, output{})
		case c.sw.path == "":
		case !connected:
			_, err = m.addResource(ctx, classConnection, subtypeConnection, host.Props{"Parent": string(port), "HostResource": []string{string(c.sw.path)}})
		default:
			if r := have.Props.Strings("HostResource"); len(r) == 1 && switchGUID(r[0]) == c.sw.guid {
				break
			}
			var text string
			if text, err = n.conn.TextOf(ctx, have.Path, host.Props{"HostResource": []string{string(c.sw.path)}}); err == nil {
				_, err = n.call(ctx, n.management, "ModifyResourceSettings", host.Props{"ResourceSettings": []string{text}}, output{})
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
