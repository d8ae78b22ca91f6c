package azuretest_test

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
)

func address(n armnetwork.Interface) string {
	return *n.Properties.IPConfigurations[0].Properties.PrivateIPAddress
}

func TestAddressesAreAllocated(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	first := must(w.nic("first", nicModel(w.subnet("app"), "")))(t)
	require.Equal(t, "10.9.0.4", address(first), "Azure keeps four")
	must(w.nic("static", nicModel(w.subnet("app"), "10.9.0.5")))(t)
	require.Equal(t, "10.9.0.6", address(must(w.nic("third", nicModel(w.subnet("app"), "")))(t)))
	require.Equal(t, "10.9.0.4", address(must(w.nic("first", nicModel(w.subnet("app"), "")))(t)), "the same again")
	for name, c := range map[string]struct {
		model armnetwork.Interface
		code  string
	}{
		"taken":             {nicModel(w.subnet("app"), "10.9.0.5"), "PrivateIPAddressInUse"},
		"reserved":          {nicModel(w.subnet("app"), "10.9.0.3"), "PrivateIPAddressInReservedRange"},
		"the last":          {nicModel(w.subnet("app"), "10.9.0.255"), "PrivateIPAddressInReservedRange"},
		"of another subnet": {nicModel(w.subnet("app"), "10.9.1.4"), "PrivateIPAddressNotInSubnet"},
		"no address":        {nicModel(w.subnet("app"), "x"), "StaticIPAddressMustBeSpecified"},
		"no such subnet":    {nicModel(w.subnet("none"), ""), "InvalidResourceReference"},
		"no configuration":  {armnetwork.Interface{Location: loc}, "NetworkInterfaceMustHaveOneIpConfiguration"},
	} {
		_, err := w.nic("new", c.model)
		t.Log(name)
		refused(t, err, 400, c.code)
	}
	for range 3 { // of eight, Azure keeps five
		must(w.nic("tiny"+string(rune('a'+len(w.Resources()))), nicModel(w.subnet("tiny"), "")))(t)
	}
	_, err := w.nic("full", nicModel(w.subnet("tiny"), ""))
	refused(t, err, 400, "SubnetIsFull")

	nets := w.network.NewVirtualNetworksClient()
	check := func(a string) armnetwork.IPAddressAvailabilityResult {
		return must(nets.CheckIPAddressAvailability(t.Context(), rg, "net", a, nil))(t).IPAddressAvailabilityResult
	}
	require.True(t, *check("10.9.0.77").Available)
	taken := check("10.9.0.5")
	require.False(t, *taken.Available)
	require.Equal(t, "10.9.0.7", *taken.AvailableIPAddresses[0])
	require.True(t, *check("10.9.0.1").IsPlatformReserved)
	s := must(w.network.NewSubnetsClient().Get(t.Context(), rg, "net", "app", nil))(t)
	require.Equal(t, "10.9.0.0/24", *s.Properties.AddressPrefix)
	require.Len(t, s.Properties.IPConfigurations, 3)
	subnets := must(w.network.NewSubnetsClient().NewListPager(rg, "net", nil).NextPage(t.Context()))(t)
	require.Len(t, subnets.Value, 2)
}

func TestInterfacesAndPublicAddressesGoWithTheMachine(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	makePIP := func(name string, m armnetwork.PublicIPAddress) (armnetwork.PublicIPAddress, error) {
		p, err := w.pips.BeginCreateOrUpdate(t.Context(), rg, name, m, nil)
		r, err := await(t.Context(), p, err)
		return r.PublicIPAddress, err
	}
	model := armnetwork.PublicIPAddress{Location: loc, SKU: &armnetwork.PublicIPAddressSKU{Name: ptr(armnetwork.PublicIPAddressSKUNameStandard)},
		Properties: &armnetwork.PublicIPAddressPropertiesFormat{PublicIPAllocationMethod: ptr(armnetwork.IPAllocationMethodDynamic)}}
	_, err := makePIP("pip", model)
	refused(t, err, 400, "StandardSkuPublicIPAddressesMustBeStatic")
	model.Properties.PublicIPAllocationMethod = ptr(armnetwork.IPAllocationMethodStatic)
	model.Properties.DeleteOption = ptr(armnetwork.DeleteOptionsDelete)
	pip := must(makePIP("pip", model))(t)
	require.NotEmpty(t, *pip.Properties.IPAddress)

	n := nicModel(w.subnet("app"), "10.9.0.10")
	n.Properties.IPConfigurations[0].Properties.PublicIPAddress = &armnetwork.PublicIPAddress{ID: pip.ID}
	made := must(w.nic("nic", n))(t)
	_, err = w.nic("nic2", func() armnetwork.Interface {
		m := nicModel(w.subnet("app"), "")
		m.Properties.IPConfigurations[0].Properties.PublicIPAddress = &armnetwork.PublicIPAddress{ID: pip.ID}
		return m
	}())
	refused(t, err, 400, "PublicIPAddressInUse")
	del, err := w.pips.BeginDelete(t.Context(), rg, "pip", nil)
	_, err = await(t.Context(), del, err)
	refused(t, err, 400, "PublicIPAddressCannotBeDeleted")

	os := *must(w.disk("os", emptyDisk(1)))(t).ID
	v := must(w.vm("web", vmModel(os, *made.ID)))(t)
	made = must(w.nics.Get(t.Context(), rg, "nic", nil))(t).Interface
	require.Equal(t, *v.ID, *made.Properties.VirtualMachine.ID)
	require.NotEmpty(t, *made.Properties.MacAddress)
	p, err := w.nics.BeginDelete(t.Context(), rg, "nic", nil)
	_, err = await(t.Context(), p, err)
	refused(t, err, 400, "NicInUse")
	require.NoError(t, w.deleteVM("web"))
	for _, id := range w.Resources() {
		require.NotContains(t, id, "publicipaddresses")
		require.NotContains(t, id, "networkinterfaces")
	}
}

func TestRulesJudgeFlows(t *testing.T) {
	w := newWorld(t, azuretest.Options{})
	groups, rules := w.network.NewSecurityGroupsClient(), w.network.NewSecurityRulesClient()
	p, err := groups.BeginCreateOrUpdate(t.Context(), rg, "nsg", armnetwork.SecurityGroup{Location: loc}, nil)
	nsg := must(await(t.Context(), p, err))(t)
	require.Len(t, nsg.Properties.DefaultSecurityRules, 6)
	rule := func(name string, change func(*armnetwork.SecurityRulePropertiesFormat)) error {
		r := &armnetwork.SecurityRulePropertiesFormat{
			Access: ptr(armnetwork.SecurityRuleAccessAllow), Direction: ptr(armnetwork.SecurityRuleDirectionInbound), Protocol: ptr(armnetwork.SecurityRuleProtocolTCP),
			Priority: ptr(int32(300)), SourceAddressPrefix: ptr("203.0.113.0/24"), SourcePortRange: ptr("*"), DestinationAddressPrefix: ptr("*"),
			DestinationPortRanges: []*string{ptr("3389"), ptr("22")},
		}
		if change != nil {
			change(r)
		}
		p, err := rules.BeginCreateOrUpdate(t.Context(), rg, "nsg", name, armnetwork.SecurityRule{Properties: r}, nil)
		_, err = await(t.Context(), p, err)
		return err
	}
	require.NoError(t, rule("allow-admin", nil))
	require.NoError(t, rule("allow-admin", nil), "the same again")
	refused(t, rule("clash", nil), 400, "SecurityRuleConflict")
	refused(t, rule("low", func(r *armnetwork.SecurityRulePropertiesFormat) { r.Priority = ptr(int32(99)) }), 400, "SecurityRuleInvalidPriority")
	refused(t, rule("port", func(r *armnetwork.SecurityRulePropertiesFormat) { r.SourcePortRange = ptr("9-1") }), 400, "SecurityRuleInvalidPortRange")
	refused(t, rule("prefix", func(r *armnetwork.SecurityRulePropertiesFormat) { r.SourceAddressPrefix = ptr("10.0.0.0/33") }), 400, "SecurityRuleInvalidAddressPrefix")

	n := nicModel(w.subnet("app"), "10.9.0.10")
	n.Properties.NetworkSecurityGroup = &armnetwork.SecurityGroup{ID: nsg.ID}
	nic := must(w.nic("nic", n))(t)
	effective := func() (armnetwork.EffectiveNetworkSecurityGroupListResult, error) {
		p, err := w.nics.BeginListEffectiveNetworkSecurityGroups(t.Context(), rg, "nic", nil)
		r, err := await(t.Context(), p, err)
		return r.EffectiveNetworkSecurityGroupListResult, err
	}
	_, err = effective()
	refused(t, err, 400, "NetworkInterfaceNotAttachedToRunningVM")
	v := must(w.vm("web", vmModel(*must(w.disk("os", emptyDisk(1)))(t).ID, *nic.ID)))(t)
	list := must(effective())(t)
	require.Equal(t, *nsg.ID, *list.Value[0].NetworkSecurityGroup.ID)
	require.Equal(t, "securityRules/allow-admin", *list.Value[0].EffectiveSecurityRules[0].Name)
	require.Len(t, list.Value[0].EffectiveSecurityRules, 7)

	watcher := w.network.NewWatchersClient()
	for _, c := range []struct {
		direction     armnetwork.Direction
		remote        string
		local, port   string
		access, named string
	}{
		{armnetwork.DirectionInbound, "203.0.113.9", "22", "5000", "Allow", "securityRules/allow-admin"},
		{armnetwork.DirectionInbound, "203.0.113.9", "80", "5000", "Deny", "defaultSecurityRules/DenyAllInBound"},
		{armnetwork.DirectionInbound, "198.51.100.1", "22", "5000", "Deny", "defaultSecurityRules/DenyAllInBound"},
		{armnetwork.DirectionInbound, "10.9.1.4", "80", "5000", "Allow", "defaultSecurityRules/AllowVnetInBound"},
		{armnetwork.DirectionOutbound, "198.51.100.1", "5000", "443", "Allow", "defaultSecurityRules/AllowInternetOutBound"},
		{armnetwork.DirectionOutbound, "192.168.0.1", "5000", "443", "Deny", "defaultSecurityRules/DenyAllOutBound"},
	} {
		p, err := watcher.BeginVerifyIPFlow(t.Context(), "NetworkWatcherRG", "NetworkWatcher_westeurope", armnetwork.VerificationIPFlowParameters{
			Direction: &c.direction, Protocol: ptr(armnetwork.IPFlowProtocolTCP), TargetResourceID: v.ID,
			LocalIPAddress: ptr("10.9.0.10"), LocalPort: &c.local, RemoteIPAddress: &c.remote, RemotePort: &c.port,
		}, nil)
		r := must(await(t.Context(), p, err))(t)
		require.Equal(t, c.access+" "+c.named, string(*r.Access)+" "+*r.RuleName, "%v", c)
	}
	d, err := groups.BeginDelete(t.Context(), rg, "nsg", nil)
	_, err = await(t.Context(), d, err)
	refused(t, err, 400, "InUseNetworkSecurityGroupCannotBeDeleted")
	dr, err := rules.BeginDelete(t.Context(), rg, "nsg", "allow-admin", nil)
	must(await(t.Context(), dr, err))(t)
	list = must(effective())(t)
	require.Len(t, list.Value[0].EffectiveSecurityRules, 6)
}

// While an operation on an interface runs, others are told so.
func TestInterfacesAreBusy(t *testing.T) {
	w := newWorld(t, azuretest.Options{Polls: 2})
	_, err := w.nics.BeginCreateOrUpdate(t.Context(), rg, "nic", nicModel(w.subnet("app"), ""), nil)
	require.NoError(t, err)
	_, err = w.nics.BeginCreateOrUpdate(t.Context(), rg, "nic", nicModel(w.subnet("app"), "10.9.0.9"), nil)
	refused(t, err, 409, "AnotherOperationInProgress")
	require.Equal(t, "Updating", string(*must(w.nics.Get(t.Context(), rg, "nic", nil))(t).Properties.ProvisioningState))
	require.Equal(t, "Succeeded", string(*must(w.nics.Get(t.Context(), rg, "nic", nil))(t).Properties.ProvisioningState))
}
