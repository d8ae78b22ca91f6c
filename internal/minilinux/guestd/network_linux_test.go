package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInterfaces(t *testing.T) {
	for _, c := range []struct{ text, card, prefix string }{
		{"auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n\taddress 10.0.2.15/24\n", "eth0", "10.0.2.15/24"},
		{"iface eth0 inet static\n address 192.168.7.9\n netmask 255.255.252.0\n gateway 192.168.7.1\n", "eth0", "192.168.7.9/22"},
		{"iface eth0 inet static\n address 192.168.7.9\n", "eth0", "192.168.7.9/24"},
	} {
		card, prefix, err := parseInterfaces(c.text)
		require.NoError(t, err, c.text)
		require.Equal(t, c.card, card)
		require.Equal(t, c.prefix, prefix.String())
	}
	for _, bad := range []string{
		"", "iface eth0 inet dhcp\n", "address 10.0.2.15/24\n", "iface eth0 inet static\n",
		"iface eth0 inet static\naddress 10.0.2/24\n", "iface eth0 inet static\naddress 10.0.2.15\nnetmask x\n",
		"iface eth0 inet6 static\naddress fd00::1/64\n",
	} {
		_, _, err := parseInterfaces(bad)
		require.Error(t, err, bad)
	}
}

func TestArgument(t *testing.T) {
	require.Equal(t, "1-2", argument("BOOT_IMAGE=/vmlinuz root=UUID=1-2 ro quiet\n", "root=UUID"))
	require.Empty(t, argument("root=/dev/vda2", "root=UUID"))
}

func TestBusOfAnAlias(t *testing.T) {
	for alias, want := range map[string]string{
		"pci:v00001AF4d*sv*sd*bc*sc*i*": "pci", "acpi*:LNXPWRBN:*": "acpi", "acpi:LNXPWRBN:": "acpi", "input:b*v*": "input", "evdev": "evdev",
	} {
		require.Equal(t, want, bus(alias), alias)
	}
}
