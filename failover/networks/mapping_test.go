package networks

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func byPrefix(from, to string) Addresses {
	return Addresses{Prefixes: []PrefixMap{{prefix(from), prefix(to)}}}
}

func web(addresses ...string) dr.Machine {
	return dr.Machine{ID: "m1", Name: "web", NICs: []dr.NIC{{ID: "nic-4000", Network: "lan", Addresses: addresses}}}
}

func TestResolve(t *testing.T) {
	all := End{Network: "prod", Subnet: "app", Prefixes: []netip.Prefix{prefix("10.2.0.0/24")}, Gateways: []netip.Addr{addr("10.2.0.1"), addr("2001:db8::1")}, DNS: []netip.Addr{addr("10.2.0.2")}}
	with := func(a Addresses) End { e := all; e.Addresses = a; return e }
	static := func(s ...string) backend.Card {
		c := backend.Card{Network: "prod", Subnet: "app", DNS: all.DNS, Gateways: all.Gateways[:1]}
		for _, p := range s {
			c.Addresses = append(c.Addresses, prefix(p))
		}
		return c
	}
	v6 := static("2001:db8:2::7/64")
	v6.Gateways = all.Gateways[1:]
	dhcp := backend.Card{Network: "prod", Subnet: "app", DHCP: true}
	for name, c := range map[string]struct {
		end   End
		m     dr.Machine
		rules []CardRule
		test  *End
		drill bool
		want  backend.Card
		open  string
	}{
		"network alone":           {end: all, m: web("10.1.0.7/24"), want: backend.Card{Network: "prod", Subnet: "app"}},
		"by prefix":               {end: with(byPrefix("10.1.0.0/24", "10.2.0.0/24")), m: web("10.1.0.7"), want: static("10.2.0.7/24")},
		"by IPv6 prefix":          {end: with(byPrefix("2001:db8:1::/64", "2001:db8:2::/64")), m: web("2001:db8:1::7/64", "fe80::1"), want: v6},
		"kept":                    {end: with(Addresses{Keep: true}), m: web("10.2.0.9/16"), want: static("10.2.0.9/24")},
		"kept, of another subnet": {end: with(Addresses{Keep: true}), m: web("10.1.0.9/24"), open: "no rule for its address 10.1.0.9"},
		"else DHCP":               {end: with(Addresses{Keep: true, DHCP: true}), m: web("10.1.0.9/24"), want: dhcp},
		"each":                    {end: with(Addresses{Each: map[netip.Addr]netip.Addr{addr("10.1.0.7"): addr("10.2.0.99")}}), m: web("10.1.0.7"), want: static("10.2.0.99/24")},
		"unknown addresses":       {end: with(Addresses{Keep: true}), m: web(), open: "its addresses are unknown"},
		"by the card's ID":        {end: with(Addresses{DHCP: true}), m: web("10.1.0.7"), rules: []CardRule{{Machine: "m1", Card: "nic-4000", Addresses: []netip.Prefix{prefix("10.2.0.50/24")}}}, want: static("10.2.0.50/24")},
		"by name and place":       {end: all, m: web("10.1.0.7"), rules: []CardRule{{Machine: "web", Card: "0", DHCP: true}}, want: dhcp},
		"no test network":         {end: all, m: web(), drill: true, open: "no test network"},
		"test network":            {end: all, m: web("10.1.0.7/24"), test: &End{Network: "drill"}, drill: true, want: backend.Card{Network: "drill"}},
		"unconnected":             {end: End{Unconnected: true}, m: web("10.1.0.7"), want: backend.Card{Unconnected: true}},
		"no entry":                {end: all, m: dr.Machine{ID: "m1", NICs: []dr.NIC{{ID: "nic-1", Network: "wan"}}}, open: `card nic-1 on network "wan": no entry`},
	} {
		t.Run(name, func(t *testing.T) {
			m := Mapping{Entries: []Entry{{Network: "lan", Target: c.end, Test: c.test}}, Cards: c.rules}
			w, err := m.Resolve(c.m, c.drill)
			if c.open != "" {
				require.ErrorIs(t, err, dr.ErrInvalid)
				var open *UnmappedError
				require.ErrorAs(t, err, &open)
				require.Len(t, open.Cards, 1)
				require.ErrorContains(t, err, c.open)
				return
			}
			require.NoError(t, err)
			require.Equal(t, map[string]backend.Card{"nic-4000": c.want}, w.Cards)
			to, said := backend.Placement{Networks: w.Networks}.Connection(c.m.NICs[0])
			require.True(t, said)
			want, _ := backend.Placement{Cards: w.Cards}.Connection(c.m.NICs[0])
			require.Equal(t, want, to)
		})
	}
}

// A mapping by prefix gives two machines two addresses, and its reverse gives
// them back.
func TestByPrefixIsInjectiveAndReverses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
		draw := func(what string) netip.Addr {
			a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, what))
			return a
		}
		bits := rapid.IntRange(0, 8*size).Draw(t, "bits")
		p := PrefixMap{netip.PrefixFrom(draw("from"), bits).Masked(), netip.PrefixFrom(draw("to"), bits).Masked()}
		host := PrefixMap{netip.PrefixFrom(draw("x"), bits), p.From}
		a, ok := host.Map(host.From.Addr())
		require.True(t, ok)
		host.From = netip.PrefixFrom(draw("y"), bits)
		b, ok := host.Map(host.From.Addr())
		require.True(t, ok)
		to, ok := p.Map(a)
		require.True(t, ok)
		require.True(t, p.To.Contains(to))
		other, _ := p.Map(b)
		require.Equal(t, a == b, to == other)
		home, ok := PrefixMap{p.To, p.From}.Map(to)
		require.True(t, ok)
		require.Equal(t, a, home)
	})
}

func TestReverse(t *testing.T) {
	m := Mapping{From: "home", To: "cloud", Entries: []Entry{{Network: "lan", Target: End{Network: "prod", Subnet: "app", Addresses: byPrefix("10.1.0.0/24", "10.2.0.0/24")}}}}
	back, err := m.Reverse()
	require.NoError(t, err)
	require.Equal(t, "cloud", back.From)
	out, err := m.Resolve(web("10.1.0.7/24"), false)
	require.NoError(t, err)
	there := dr.Machine{ID: "vm", NICs: []dr.NIC{{ID: "web-nic0", Network: "prod/app", Addresses: []string{out.Cards["nic-4000"].Addresses[0].String()}}}}
	home, err := back.Resolve(there, false)
	require.NoError(t, err)
	require.Equal(t, backend.Card{Network: "lan", Addresses: []netip.Prefix{prefix("10.1.0.7/24")}}, home.Cards["web-nic0"])

	for what, change := range map[string]func(*Mapping){
		"another network": func(m *Mapping) { m.Entries = append(m.Entries, Entry{Network: "lan2", Target: m.Entries[0].Target}) },
		"DHCP":            func(m *Mapping) { m.Entries[0].Target.Addresses.DHCP = true },
		"no network":      func(m *Mapping) { m.Entries[0].Target = End{Unconnected: true} },
		"single cards":    func(m *Mapping) { m.Cards = []CardRule{{Machine: "m", Card: "0", DHCP: true}} },
	} {
		var x Mapping
		b, err := json.Marshal(m)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(b, &x))
		change(&x)
		_, err = x.Reverse()
		require.ErrorIs(t, err, dr.ErrInvalid, what)
		require.ErrorContains(t, err, what)
		if what != "no network" {
			x.Back = []Entry{{Network: "prod/app", Target: End{Network: "lan"}}}
			_, err = x.Reverse()
			require.NoError(t, err, "said explicitly")
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"from":"home","to":"cloud","entries":[{"network":"lan","target":{"network":"prod","subnet":"app","prefixes":["10.2.0.0/24"],"addresses":{"prefixes":[{"from":"10.1.0.0/24","to":"10.2.0.0/24"}],"each":{"10.1.0.9":"10.2.0.99"},"keep":true}},"test":{"network":"drill"}}],"cards":[{"machine":"web","card":"0","dhcp":true}]}`))
	f.Add([]byte(`{"entries":[{"network":"","target":{"unconnected":true}}]} {}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			require.ErrorIs(t, err, dr.ErrInvalid)
			return
		}
		again, err := json.Marshal(m)
		require.NoError(t, err)
		_, err = Parse(again)
		require.NoError(t, err, string(again))
		for _, e := range m.Entries {
			for _, a := range []string{"10.1.0.7/24", "2001:db8::7", "::ffff:10.1.0.9"} {
				x := dr.Machine{ID: "m", NICs: []dr.NIC{{ID: "n", Network: e.Network, Addresses: []string{a}}}}
				w, err := m.Resolve(x, false)
				if err != nil {
					require.True(t, errors.Is(err, dr.ErrInvalid), fmt.Sprint(err))
					continue
				}
				require.NoError(t, backend.Placement{Machine: x, Cards: w.Cards}.CheckCards())
			}
		}
		_, _ = m.Reverse()
	})
}
