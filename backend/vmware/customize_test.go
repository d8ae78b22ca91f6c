package vmware

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware/vmwaretest"
	"github.com/lifeboat-dr/lifeboat/dr"
)

func TestGuestNet(t *testing.T) {
	m := full().describe()
	s, err := parseSaved(m.Config)
	require.NoError(t, err)
	g, err := guestNetOf(m, PlaceOptions{}, s)
	require.NoError(t, err)
	require.Equal(t, &guestNet{Host: "web", Domain: "shop.example", DNS: []string{"10.0.0.2"}, Search: []string{"example"},
		Cards: []guestCard{{ID: "nic-4000", Addresses: []string{"10.0.0.5/24"}, Gateways: []string{"10.0.0.1"}}}}, g)

	m.NICs[0].Addresses = []string{"192.168.7.5/22", "2001:db8::5/64"}
	m.NICs = append(m.NICs, dr.NIC{ID: "nic-4001", DHCP: true, Addresses: []string{"10.9.9.9/8"}}, dr.NIC{ID: "nic-4002"})
	g, err = guestNetOf(m, PlaceOptions{DNS: []string{"192.168.7.2"}, Gateways: map[string][]string{"nic-4000": {"192.168.7.1", "2001:db8::1"}}}, s)
	require.NoError(t, err)
	spec, err := g.spec([]string{"02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"})
	require.NoError(t, err)
	require.Equal(t, types.CustomizationSpec{
		Identity:         &types.CustomizationLinuxPrep{HostName: &types.CustomizationFixedName{Name: "web"}, Domain: "shop.example"},
		GlobalIPSettings: types.CustomizationGlobalIPSettings{DnsServerList: []string{"192.168.7.2"}, DnsSuffixList: []string{"example"}},
		NicSettingMap: []types.CustomizationAdapterMapping{
			{MacAddress: "02:00:00:00:00:01", Adapter: types.CustomizationIPSettings{Ip: &types.CustomizationFixedIp{IpAddress: "192.168.7.5"}, SubnetMask: "255.255.252.0", Gateway: []string{"192.168.7.1"},
				IpV6Spec: &types.CustomizationIPSettingsIpV6AddressSpec{Ip: []types.BaseCustomizationIpV6Generator{&types.CustomizationFixedIpV6{IpAddress: "2001:db8::5", SubnetMask: 64}}, Gateway: []string{"2001:db8::1"}}}},
			{MacAddress: "02:00:00:00:00:02", Adapter: types.CustomizationIPSettings{Ip: &types.CustomizationDhcpIpGenerator{}}},
			{MacAddress: "02:00:00:00:00:03", Adapter: types.CustomizationIPSettings{Ip: &types.CustomizationDhcpIpGenerator{}}},
		},
	}, spec)
}

func TestGuestNetRefuses(t *testing.T) {
	static := func(os string, addresses ...string) dr.Machine {
		return dr.Machine{ID: "m", OS: os, NICs: []dr.NIC{{ID: "n", Addresses: addresses}}}
	}
	for name, c := range map[string]struct {
		m    dr.Machine
		want error
	}{
		"windows":          {static("windows", "10.0.0.5/24"), dr.ErrUnsupported},
		"unknown":          {static("", "10.0.0.5/24"), dr.ErrUnsupported},
		"no prefix length": {static("linux", "10.0.0.5"), dr.ErrInvalid},
		"two of IPv4":      {static("linux", "10.0.0.5/24", "10.0.0.6/24"), dr.ErrUnsupported},
	} {
		_, err := guestNetOf(c.m, PlaceOptions{}, nil)
		require.ErrorIs(t, err, c.want, name)
	}
	for _, os := range []string{"linux", "windows"} {
		g, err := guestNetOf(dr.Machine{OS: os, NICs: []dr.NIC{{ID: "n", DHCP: true}}}, PlaceOptions{}, nil)
		require.NoError(t, err)
		require.Nil(t, g, "there is nothing to tell")
	}
}

func TestHostName(t *testing.T) {
	for s, want := range map[string]string{"web": "web", "web.example": "web", "Web server (old)": "Web-server-old", "": "localhost", "ä": "localhost"} {
		require.Equal(t, want, hostName(s), s)
	}
}

func TestCustomize(t *testing.T) {
	sim, v := openSim(t, vmwaretest.Options{})
	p := backend.Placement{Key: "k", Machine: dr.Machine{ID: "m", OS: "linux", Disks: []dr.Disk{{ID: "a", Size: mib}},
		NICs: []dr.NIC{{ID: "n", Network: "isolated", Addresses: []string{"10.0.0.5/24"}}}}}
	m := createIn(t, v, p, PlaceOptions{Datastore: "vmfs-0", Addresses: true})
	require.NotNil(t, m.record.Guest, "the record survived the creation")
	require.NoError(t, v.customize(t.Context(), m, m.record.Guest))
	require.NoError(t, v.customize(t.Context(), m, m.record.Guest), "it is pending already")
	require.Equal(t, 2, sim.Calls("CustomizeVM_Task"))

	err := v.customize(t.Context(), m, &guestNet{})
	require.ErrorIs(t, err, dr.ErrConflict)
	sim.Fault(vmwaretest.Fault{Call: "CustomizeVM_Task", When: vmwaretest.InsteadOfTask, Err: &types.UncustomizableGuest{}})
	require.ErrorIs(t, v.customize(t.Context(), m, m.record.Guest), dr.ErrUnsupported)
	sim.Fault(vmwaretest.Fault{Call: "CustomizeVM_Task", Err: &types.NoPermission{PrivilegeId: "VirtualMachine.Provisioning.Customize"}})
	require.ErrorContains(t, fail("customize", m.id, "", -1, v.customize(t.Context(), m, m.record.Guest)), "VirtualMachine.Provisioning.Customize")

	sim.VM(m.ref).PowerOn()
	require.ErrorIs(t, v.customize(t.Context(), look(t, v, m.ref), m.record.Guest), dr.ErrRunning)
}
