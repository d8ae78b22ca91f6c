package azure_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/network/armnetwork/v9"
	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/azure"
	"github.com/lifeboat-dr/lifeboat/backend/azure/azuretest"
	"github.com/lifeboat-dr/lifeboat/backend/memory"
	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/embedded"
	"github.com/lifeboat-dr/lifeboat/failover"
	"github.com/lifeboat-dr/lifeboat/recoverypoint/memstore"
	"github.com/lifeboat-dr/lifeboat/replication"
)

// web is the machine that replicas in these tests stand for.
func web() dr.Machine {
	return dr.Machine{ID: "web", Name: "web", CPUs: 2, Memory: 4 << 30, OS: "linux", Firmware: dr.BIOS,
		Disks: []dr.Disk{{ID: "sda", Size: 4 << 20, Boot: true}},
		NICs:  []dr.NIC{{ID: "nic0", Network: "lan", Addresses: []string{"10.1.0.20"}}}}
}

// prepare makes a replica of a machine.
func (r *rig) prepare(t testing.TB, key string, m dr.Machine, change ...func(*backend.Placement)) (dr.MachineID, error) {
	t.Helper()
	p := backend.Placement{Key: key, Machine: m}
	for _, f := range change {
		f(&p)
	}
	rep, err := r.a.Prepare(context.Background(), p)
	return rep.ID, err
}

// started is a replica that runs.
func (r *rig) started(t testing.TB, key string, m dr.Machine, change ...func(*backend.Placement)) dr.MachineID {
	t.Helper()
	id, err := r.prepare(t, key, m, change...)
	require.NoError(t, err)
	require.NoError(t, r.a.Start(context.Background(), id))
	return id
}

func options(o azure.PlacementOptions) func(*backend.Placement) {
	return func(p *backend.Placement) {
		raw, err := json.Marshal(o)
		if err != nil {
			panic(err)
		}
		p.Options = raw
	}
}

// network is what a person sees of networks.
func (r *rig) network(t testing.TB) *armnetwork.ClientFactory {
	f, err := armnetwork.NewClientFactory(r.cloud.Subscription(), r.cloud.Credential(), r.cloud.ClientOptions())
	require.NoError(t, err)
	return f
}

// cardsOf reads a machine's cards, the first one first.
func (r *rig) cardsOf(t testing.TB, id dr.MachineID) []armnetwork.Interface {
	t.Helper()
	g, n, err := r.vm(id)
	require.NoError(t, err)
	c := r.network(t).NewInterfacesClient()
	var all []armnetwork.Interface
	for i := 0; ; i++ {
		card, err := c.Get(context.Background(), g, n+"-nic"+string(rune('0'+i)), nil)
		if err != nil {
			return all
		}
		all = append(all, card.Interface)
	}
}

// group makes a network security group with these rules, and returns its ID.
func (r *rig) group(t testing.TB, in, name string, rules ...*armnetwork.SecurityRule) string {
	t.Helper()
	ctx := context.Background()
	p, err := r.network(t).NewSecurityGroupsClient().BeginCreateOrUpdate(ctx, in, name, armnetwork.SecurityGroup{Location: to.Ptr(r.cloud.Location()),
		Properties: &armnetwork.SecurityGroupPropertiesFormat{SecurityRules: rules}}, nil)
	require.NoError(t, err)
	g, err := p.PollUntilDone(ctx, nil)
	require.NoError(t, err)
	return *g.ID
}

func rule(name string, priority int32, access armnetwork.SecurityRuleAccess, from string, ports ...string) *armnetwork.SecurityRule {
	return &armnetwork.SecurityRule{Name: to.Ptr(name), Properties: &armnetwork.SecurityRulePropertiesFormat{
		Access: to.Ptr(access), Direction: to.Ptr(armnetwork.SecurityRuleDirectionInbound), Protocol: to.Ptr(armnetwork.SecurityRuleProtocolTCP), Priority: to.Ptr(priority),
		SourceAddressPrefix: to.Ptr(from), SourcePortRange: to.Ptr("*"), DestinationAddressPrefix: to.Ptr("*"), DestinationPortRanges: to.SliceOfPtrs(ports...)}}
}

// rules are the inbound rules of a group: the names, by priority.
func (r *rig) rules(t testing.TB, id string) (all []*armnetwork.SecurityRule) {
	t.Helper()
	parts := strings.Split(id, "/")
	g, err := r.network(t).NewSecurityGroupsClient().Get(context.Background(), parts[4], parts[8], nil)
	require.NoError(t, err)
	return g.Properties.SecurityRules
}

// reaches asks the Network Watcher whether a packet gets to a machine.
func (r *rig) reaches(t testing.TB, id dr.MachineID, from, port string) bool {
	t.Helper()
	ctx := context.Background()
	g, n, err := r.vm(id)
	require.NoError(t, err)
	vm := "/subscriptions/" + r.cloud.Subscription() + "/resourceGroups/" + g + "/providers/Microsoft.Compute/virtualMachines/" + n
	p, err := r.network(t).NewWatchersClient().BeginVerifyIPFlow(ctx, "NetworkWatcherRG", "NetworkWatcher_"+r.cloud.Location(), armnetwork.VerificationIPFlowParameters{
		TargetResourceID: &vm, Direction: to.Ptr(armnetwork.DirectionInbound), Protocol: to.Ptr(armnetwork.IPFlowProtocolTCP),
		LocalIPAddress: r.cardsOf(t, id)[0].Properties.IPConfigurations[0].Properties.PrivateIPAddress, LocalPort: &port, RemoteIPAddress: &from, RemotePort: to.Ptr("50000")}, nil)
	require.NoError(t, err)
	res, err := p.PollUntilDone(ctx, nil)
	require.NoError(t, err)
	return *res.Access == armnetwork.AccessAllow
}

// act calls an action as an orchestrator would.
func (r *rig) act(action string, in azure.AccessInput, change ...func(*dr.Call)) (json.RawMessage, error) {
	in.Site = "away"
	raw, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	c := &dr.Call{Run: "run-1", Step: "access", Key: "run-1/access", Input: raw, Attempt: 1, Beat: func(dr.Progress) {}}
	for _, f := range change {
		f(c)
	}
	return azure.AccessActions(func(site string) (*azure.Azure, error) {
		if site != "away" {
			return nil, errors.New("no such site")
		}
		return r.a, nil
	})[action](context.Background(), c)
}

func undo(c *dr.Call) { c.Undo = true }

func result[T any](t testing.TB, raw json.RawMessage, err error) (v T) {
	t.Helper()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &v))
	return v
}

// remedy is what an error says to do.
func remedy(t testing.TB, err error) string {
	t.Helper()
	var e *dr.Error
	require.ErrorAs(t, err, &e)
	require.NotEmpty(t, e.Remedy, "an error without a remedy: %v", err)
	return e.Remedy
}

func TestPublicAddress(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id := r.started(t, "k", web())
	before := r.cloud.Resources()
	in := azure.AccessInput{Machine: id}
	raw, err := r.act(azure.ActionPublicAddress, in)
	got := result[azure.PublicAddress](t, raw, err)
	require.NotEmpty(t, got.Address)
	require.Contains(t, got.ID, "/publicIPAddresses/")
	first := r.cardsOf(t, id)[0].Properties.IPConfigurations[0].Properties.PublicIPAddress
	require.NotNil(t, first)
	require.True(t, strings.EqualFold(*first.ID, got.ID))
	require.Len(t, r.cloud.Resources(), len(before)+1)

	// Again, as after a crash: the same address.
	raw, err = r.act(azure.ActionPublicAddress, in)
	require.Equal(t, got, result[azure.PublicAddress](t, raw, err))
	require.Len(t, r.cloud.Resources(), len(before)+1)

	for range 2 {
		_, err = r.act(azure.ActionPublicAddress, in, undo)
		require.NoError(t, err)
		require.Equal(t, before, r.cloud.Resources())
		require.Nil(t, r.cardsOf(t, id)[0].Properties.IPConfigurations[0].Properties.PublicIPAddress)
	}
}

// A machine that has an address of its own keeps it, and the undo leaves it.
func TestPublicAddressOfSomebodyElse(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	ctx := context.Background()
	id := r.started(t, "k", web())
	mine := func(name string) armnetwork.PublicIPAddress {
		p, err := r.network(t).NewPublicIPAddressesClient().BeginCreateOrUpdate(ctx, group, name, armnetwork.PublicIPAddress{Location: to.Ptr(r.cloud.Location()),
			Tags: map[string]*string{"owner": to.Ptr("somebody")}, SKU: &armnetwork.PublicIPAddressSKU{Name: to.Ptr(armnetwork.PublicIPAddressSKUNameStandard)},
			Properties: &armnetwork.PublicIPAddressPropertiesFormat{PublicIPAllocationMethod: to.Ptr(armnetwork.IPAllocationMethodStatic)}}, nil)
		require.NoError(t, err)
		a, err := p.PollUntilDone(ctx, nil)
		require.NoError(t, err)
		return a.PublicIPAddress
	}

	// One of the name that ours would have is not taken over.
	theirs := mine("web-address")
	_, err := r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id})
	require.ErrorIs(t, err, dr.ErrExists)
	remedy(t, err)
	now, err := r.network(t).NewPublicIPAddressesClient().Get(ctx, group, "web-address", nil)
	require.NoError(t, err)
	require.Equal(t, theirs.Tags, now.Tags)
	_, err = r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id}, undo)
	require.NoError(t, err)
	_, err = r.network(t).NewPublicIPAddressesClient().Get(ctx, group, "web-address", nil)
	require.NoError(t, err, "the undo has deleted what it didn't make")

	// One that the card has is told.
	card := r.cardsOf(t, id)[0]
	own := mine("of-their-own")
	card.Properties.IPConfigurations[0].Properties.PublicIPAddress = &armnetwork.PublicIPAddress{ID: own.ID}
	p, err := r.network(t).NewInterfacesClient().BeginCreateOrUpdate(ctx, group, *card.Name, card, nil)
	require.NoError(t, err)
	_, err = p.PollUntilDone(ctx, nil)
	require.NoError(t, err)
	raw, err := r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id})
	require.Equal(t, *own.Properties.IPAddress, result[azure.PublicAddress](t, raw, err).Address)
	_, err = r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id}, undo)
	require.NoError(t, err)
	require.NotNil(t, r.cardsOf(t, id)[0].Properties.IPConfigurations[0].Properties.PublicIPAddress)
}

func TestAllow(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id := r.started(t, "k", web())
	before := r.cloud.Resources()
	in := azure.AccessInput{Machine: id, From: "203.0.113.77/24"}
	var got azure.Allowed
	for range 2 { // again, as after a crash
		raw, err := r.act(azure.ActionAllow, in)
		now := result[azure.Allowed](t, raw, err)
		require.Equal(t, []int{22}, now.Ports)
		require.Empty(t, now.SubnetGroup)
		require.True(t, now.Open, "%+v", now)
		require.Empty(t, now.Denied)
		if got.Group != "" {
			require.Equal(t, got, now)
		}
		got = now
	}
	all := r.rules(t, got.Group)
	require.Len(t, all, 1)
	require.Equal(t, got.Rule, *all[0].Name)
	require.Equal(t, "203.0.113.0/24", *all[0].Properties.SourceAddressPrefix)
	require.Equal(t, armnetwork.SecurityRuleProtocolTCP, *all[0].Properties.Protocol)

	require.True(t, r.reaches(t, id, "203.0.113.5", "22"))
	require.False(t, r.reaches(t, id, "203.0.113.5", "80"), "a port that nobody asked for is open")
	require.False(t, r.reaches(t, id, "198.51.100.5", "22"), "open to others too")

	for range 2 {
		_, err := r.act(azure.ActionAllow, in, undo)
		require.NoError(t, err)
		require.Equal(t, before, r.cloud.Resources(), "the undo leaves what the action made")
		require.Nil(t, r.cardsOf(t, id)[0].Properties.NetworkSecurityGroup)
	}
}

// Two steps share the machine's own group: the undo of one leaves the other's
// rule, and the group.
func TestAllowTwice(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	m := web()
	m.OS = "windows"
	id := r.started(t, "k", m)
	second := func(c *dr.Call) { c.Step, c.Key = "more", "run-1/more" }
	raw, err := r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "198.51.100.9"})
	one := result[azure.Allowed](t, raw, err)
	require.Equal(t, []int{3389}, one.Ports)
	raw, err = r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "Internet", Ports: []int{80, 443}}, second)
	two := result[azure.Allowed](t, raw, err)
	require.Equal(t, one.Group, two.Group)
	require.NotEqual(t, one.Rule, two.Rule)
	require.True(t, r.reaches(t, id, "198.51.100.9", "3389"))
	require.True(t, r.reaches(t, id, "192.0.2.1", "443"))
	require.False(t, r.reaches(t, id, "192.0.2.1", "3389"))
	_, err = r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "198.51.100.9"}, undo)
	require.NoError(t, err)
	require.False(t, r.reaches(t, id, "198.51.100.9", "3389"))
	require.True(t, r.reaches(t, id, "192.0.2.1", "443"))
}

// A group that the card has already is other machines' too: only this machine is
// opened, the priorities that are taken stay, and Remove takes the rule back.
func TestAllowInSharedGroup(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	shared := r.group(t, group, "shared", rule("theirs", 1000, armnetwork.SecurityRuleAccessAllow, "192.0.2.0/24", "443"),
		rule("more", 1001, armnetwork.SecurityRuleAccessAllow, "192.0.2.0/24", "80"))
	in := options(azure.PlacementOptions{SecurityGroup: "shared"})
	id := r.started(t, "k", web(), in)
	other := r.started(t, "other", web(), in)
	raw, err := r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "203.0.113.0/24"})
	got := result[azure.Allowed](t, raw, err)
	require.True(t, strings.EqualFold(shared, got.Group))
	require.True(t, r.reaches(t, id, "203.0.113.5", "22"))
	require.False(t, r.reaches(t, other, "203.0.113.5", "22"), "the neighbour is open too")
	for _, x := range r.rules(t, shared) {
		if *x.Name == got.Rule {
			require.Equal(t, int32(1002), *x.Properties.Priority)
		}
	}
	_, err = r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "203.0.113.0/24"}, undo)
	require.NoError(t, err)
	require.Len(t, r.rules(t, shared), 2)

	_, err = r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "203.0.113.0/24"})
	require.NoError(t, err)
	require.Len(t, r.rules(t, shared), 3)
	require.NoError(t, r.a.Remove(context.Background(), id))
	require.Len(t, r.rules(t, shared), 2, "Remove has left a hole in somebody's group")
}

// Two machines that share a group are opened at once.
func TestAllowAtOnce(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	shared := r.group(t, group, "shared")
	in := options(azure.PlacementOptions{SecurityGroup: "shared"})
	ids := []dr.MachineID{r.started(t, "a", web(), in), r.started(t, "b", web(), in)}
	// Both have read the group before either writes.
	var wait sync.WaitGroup
	wait.Add(2)
	var once [2]sync.Once
	var n int
	var mu sync.Mutex
	r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if c.Method == "PUT" && strings.Contains(c.Path, "/securityRules/") {
			mu.Lock()
			i := n
			n++
			mu.Unlock()
			if i < 2 {
				once[i].Do(wait.Done)
				wait.Wait()
			}
		}
		return nil
	})
	errs := make([]error, 2)
	var done sync.WaitGroup
	for i, id := range ids {
		done.Go(func() {
			for ok := true; ok; ok = errors.Is(errs[i], dr.ErrBusy) { // an orchestrator tries that again
				_, errs[i] = r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "203.0.113.0/24"}, func(c *dr.Call) { c.Run = dr.RunID(id) })
			}
		})
	}
	done.Wait()
	r.cloud.OnCall(nil)
	require.NoError(t, errors.Join(errs...))
	require.Len(t, r.rules(t, shared), 2)
}

// An address and a rule that are given at once don't undo each other.
func TestAccessAtOnce(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id := r.started(t, "k", web())
	begun, allowed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.cloud.OnCall(func(c azuretest.Call) *azuretest.Fault {
		if c.Method == "PUT" && strings.Contains(c.Path, "/publicIPAddresses/") {
			once.Do(func() { close(begun); <-allowed }) // the address takes long
		}
		return nil
	})
	var err1, err2 error
	var wg sync.WaitGroup
	wg.Go(func() { _, err1 = r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id}) })
	<-begun
	_, err2 = r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "203.0.113.0/24"}, func(c *dr.Call) { c.Step = "allow" })
	close(allowed)
	wg.Wait()
	r.cloud.OnCall(nil)
	require.NoError(t, errors.Join(err1, err2))
	p := r.cardsOf(t, id)[0].Properties
	require.NotNil(t, p.NetworkSecurityGroup, "the address has taken the group off the card")
	require.NotNil(t, p.IPConfigurations[0].Properties.PublicIPAddress)
}

// The subnet's group is everybody's: it is told, and what it keeps out.
func TestAllowTellsTheSubnetsGroup(t *testing.T) {
	for _, c := range []struct {
		name   string
		rules  []*armnetwork.SecurityRule
		from   string
		open   bool
		denied string
	}{
		{"lets it through", []*armnetwork.SecurityRule{rule("ssh", 200, armnetwork.SecurityRuleAccessAllow, "203.0.113.0/24", "20-30")}, "203.0.113.64/26", true, ""},
		{"any source", []*armnetwork.SecurityRule{rule("ssh", 200, armnetwork.SecurityRuleAccessAllow, "*", "*")}, "Internet", true, ""},
		{"another port", []*armnetwork.SecurityRule{rule("web", 200, armnetwork.SecurityRuleAccessAllow, "*", "443")}, "203.0.113.0/24", false, "DenyAllInBound"},
		{"part of the prefix", []*armnetwork.SecurityRule{rule("some", 200, armnetwork.SecurityRuleAccessAllow, "203.0.113.0/28", "22")}, "203.0.113.0/24", false, "DenyAllInBound"},
		{"denied before", []*armnetwork.SecurityRule{rule("no", 100, armnetwork.SecurityRuleAccessDeny, "203.0.113.7/32", "22"),
			rule("ssh", 200, armnetwork.SecurityRuleAccessAllow, "*", "22")}, "203.0.113.0/24", false, "no"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, azuretest.Options{})
			subnets := r.group(t, group, "of-the-subnet", c.rules...)
			ctx := context.Background()
			vnets := r.network(t).NewVirtualNetworksClient()
			v, err := vnets.Get(ctx, group, "prod", nil)
			require.NoError(t, err)
			for _, s := range v.Properties.Subnets {
				s.Properties.NetworkSecurityGroup = &armnetwork.SecurityGroup{ID: &subnets}
			}
			p, err := vnets.BeginCreateOrUpdate(ctx, group, "prod", v.VirtualNetwork, nil)
			require.NoError(t, err)
			_, err = p.PollUntilDone(ctx, nil)
			require.NoError(t, err)
			id := r.started(t, "k", web())
			raw, err := r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: c.from})
			got := result[azure.Allowed](t, raw, err)
			require.True(t, strings.EqualFold(subnets, got.SubnetGroup))
			require.Equal(t, c.open, got.Open, "%+v", got)
			if c.denied != "" {
				require.Len(t, got.Denied, 1)
				require.Contains(t, got.Denied[0], c.denied)
			}
			require.Len(t, r.rules(t, subnets), len(c.rules), "the subnet's group was changed")
		})
	}
}

func TestAllowRefusals(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id := r.started(t, "k", web())
	before := r.cloud.Resources()
	for _, from := range []string{"", "*", "0.0.0.0/0", "::/0", "0.0.0.0", "everybody", "203.0.113.0/33", "VirtualNetwork", "fe80::1%eth0"} {
		_, err := r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: from})
		require.ErrorIs(t, err, dr.ErrInvalid, "from %q", from)
		require.True(t, dr.IsPermanent(err), "from %q: it would be tried again", from)
	}
	_, err := r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "203.0.113.0/24", Ports: []int{0}})
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.Equal(t, before, r.cloud.Resources())

	// A group of the name that ours would have is not taken over.
	r.group(t, group, "web-guard")
	_, err = r.act(azure.ActionAllow, azure.AccessInput{Machine: id, From: "203.0.113.0/24"})
	require.ErrorIs(t, err, dr.ErrExists)
	remedy(t, err)
}

// What is undone after the machine is gone leaves nothing either, of replicas and
// of originals, which Remove doesn't delete.
func TestAccessUndoneAfterTheMachine(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	before := r.cloud.Resources()
	ctx := context.Background()
	id, err := r.add([]dr.Disk{{ID: "a", Size: 4 << 20}})
	require.NoError(t, err)
	require.NoError(t, r.power(id, dr.On))
	in := azure.AccessInput{Machine: id, From: "203.0.113.0/24"}
	for _, action := range []string{azure.ActionPublicAddress, azure.ActionAllow} {
		_, err := r.act(action, in)
		require.NoError(t, err)
	}
	g, n, err := r.vm(id)
	require.NoError(t, err)
	r.deleteVM(t, g, n)
	for range 2 {
		for _, action := range []string{azure.ActionAllow, azure.ActionPublicAddress, azure.ActionCheckPort, azure.ActionScreenshot} {
			_, err := r.act(action, in, undo)
			require.NoError(t, err)
		}
	}
	left := slices.DeleteFunc(r.cloud.Resources(), func(s string) bool {
		return slices.Contains(before, s) || strings.Contains(s, "/"+n+"-") && !strings.Contains(s, "-address") && !strings.Contains(s, "-guard")
	})
	require.Empty(t, left)

	// A replica takes all with it.
	before = r.cloud.Resources()
	id = r.started(t, "k", web())
	in.Machine = id
	for _, action := range []string{azure.ActionPublicAddress, azure.ActionAllow} {
		_, err := r.act(action, in)
		require.NoError(t, err)
	}
	require.NoError(t, r.a.Remove(ctx, id))
	require.Equal(t, before, r.cloud.Resources())
	for _, action := range []string{azure.ActionPublicAddress, azure.ActionAllow} {
		_, err = r.act(action, in, undo)
		require.NoError(t, err)
	}
	_, err = r.act(azure.ActionAllow, in)
	require.ErrorIs(t, err, dr.ErrNotFound)
}

// deleteVM is what a person does, who leaves the rest.
func (r *rig) deleteVM(t testing.TB, g, n string) {
	t.Helper()
	ctx := context.Background()
	p, err := r.compute(t).NewVirtualMachinesClient().BeginDelete(ctx, g, n, nil)
	require.NoError(t, err)
	_, err = p.PollUntilDone(ctx, nil)
	require.NoError(t, err)
}

func TestScreenshot(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id := r.started(t, "k", web())
	raw, err := r.act(azure.ActionScreenshot, azure.AccessInput{Machine: id})
	ev := result[backend.Evidence](t, raw, err)
	require.Equal(t, "screenshot", ev.Kind)
	require.Equal(t, "\x89PNG", string(ev.Data[:4]))
	_, err = r.act(azure.ActionScreenshot, azure.AccessInput{Machine: id}, undo)
	require.NoError(t, err)
}

func TestCheckPort(t *testing.T) {
	var script []string
	var printed string
	r := newRig(t, azuretest.Options{OnRunCommand: func(_ string, s []string) (string, error) {
		script = s
		return printed, nil
	}})
	linux := r.started(t, "linux", web())
	m := web()
	m.ID, m.Name, m.OS = "win", "win", "windows"
	windows := r.started(t, "windows", m)
	for _, c := range []struct {
		name    string
		machine dr.MachineID
		ports   []int
		printed string
		say     string // in the script
		missing bool
	}{
		{"linux", linux, nil, "0.0.0.0:22\n[::]:22\n", "ss ", false},
		{"linux, another port", linux, []int{443}, "*:443\n", "443", false},
		{"linux, nothing", linux, nil, "", "ss ", true},
		{"linux, a port that begins alike", linux, nil, "0.0.0.0:2222\n", "ss ", true},
		{"linux, on loopback only", linux, nil, "127.0.0.1:22\n[::1]:22\n127.0.0.53%lo:22\n", "ss ", true},
		{"windows", windows, nil, "0.0.0.0:3389\r\n:::3389\r\n", "Get-NetTCPConnection", false},
		{"windows, one of two", windows, []int{3389, 443}, ":::3389\r\n", "443", true},
		{"windows, on loopback only", windows, nil, "::1:3389\r\n127.0.0.1:3389\r\n", "3389", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			printed = c.printed
			raw, err := r.act(azure.ActionCheckPort, azure.AccessInput{Machine: c.machine, Ports: c.ports})
			require.Contains(t, strings.Join(script, "\n"), c.say)
			if c.missing {
				require.ErrorContains(t, err, "listen")
				remedy(t, err)
				return
			}
			got := result[azure.PortCheck](t, raw, err)
			want := c.ports
			if want == nil {
				want = []int{22}
				if c.machine == windows {
					want = []int{3389}
				}
			}
			require.Equal(t, want, got.Listening)
			_, err = r.act(azure.ActionCheckPort, azure.AccessInput{Machine: c.machine}, undo)
			require.NoError(t, err)
		})
	}
	t.Run("the guest's agent hangs", func(t *testing.T) {
		g, n, err := r.vm(linux)
		require.NoError(t, err)
		require.NoError(t, r.cloud.Hang(g, n, true))
		_, err = r.act(azure.ActionCheckPort, azure.AccessInput{Machine: linux})
		require.ErrorContains(t, err, "VMAgentStatusCommunicationError")
		require.Contains(t, remedy(t, err), "agent")
		require.NoError(t, r.cloud.Hang(g, n, false))
	})
	t.Run("the machine is off", func(t *testing.T) {
		require.NoError(t, r.a.Stop(context.Background(), linux))
		_, err := r.act(azure.ActionCheckPort, azure.AccessInput{Machine: linux})
		require.ErrorIs(t, err, dr.ErrNotAllowed)
		require.Contains(t, remedy(t, err), "start")
	})
}

func TestAccessInput(t *testing.T) {
	r := newRig(t, azuretest.Options{})
	id, err := r.prepare(t, "k", web())
	require.NoError(t, err)
	_, err = r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id})
	require.ErrorIs(t, err, dr.ErrNotAllowed, "it was never started")
	remedy(t, err)
	_, err = r.act(azure.ActionPublicAddress, azure.AccessInput{})
	require.ErrorIs(t, err, dr.ErrInvalid)
	require.True(t, dr.IsPermanent(err))
	_, err = r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id}, func(c *dr.Call) { c.Input = []byte("{") })
	require.ErrorIs(t, err, dr.ErrInvalid)
	_, err = r.act(azure.ActionPublicAddress, azure.AccessInput{Machine: id}, func(c *dr.Call) { c.Input = []byte(`{"site":"elsewhere","machine":"m"}`) })
	require.True(t, dr.IsPermanent(err))
	// The machine is the one that the flow has prepared.
	require.NoError(t, r.a.Start(context.Background(), id))
	prepared, err := json.Marshal(backend.Replica{ID: id})
	require.NoError(t, err)
	raw, err := r.act(azure.ActionPublicAddress, azure.AccessInput{}, func(c *dr.Call) { c.Results = map[string]json.RawMessage{"prepare": prepared} })
	require.NotEmpty(t, result[azure.PublicAddress](t, raw, err).Address)
}

// The whole of the article's table as steps of a failover's plan, and back.
func TestAccessInAPlan(t *testing.T) {
	r := newRig(t, azuretest.Options{OnRunCommand: func(string, []string) (string, error) { return "0.0.0.0:22\n", nil }})
	ctx := context.Background()
	hq := memory.New(memory.Options{Site: "hq"})
	m := web()
	m.Power = dr.On
	require.NoError(t, hq.Add(m))
	require.NoError(t, hq.Write("web", "sda", []byte(strings.Repeat("x", 512)), 0))
	before := r.cloud.Resources()

	engine, err := embedded.Open(filepath.Join(t.TempDir(), "journal.db"), embedded.Options{BackoffFirst: 1})
	require.NoError(t, err)
	defer engine.Close()
	env := &replication.Env{Records: engine, Sites: replication.Sites{
		"hq":   {Backend: hq, Points: memstore.New(memstore.Options{})},
		"away": {Backend: r.a, Points: memstore.New(memstore.Options{})},
	}}
	fails := true
	own := dr.Actions{"own.fail@1": func(_ context.Context, c *dr.Call) (json.RawMessage, error) {
		for step, r := range c.Results {
			require.NotContains(t, string(r), "sig=", "a secret in the journal, of step %s", step)
		}
		if fails && !c.Undo {
			return nil, dr.Permanent(errors.New("somebody says no"))
		}
		return nil, nil
	}}
	actions, err := dr.Merge(replication.Actions(env), failover.Actions(env), own, azure.AccessActions(func(string) (*azure.Azure, error) { return r.a, nil }))
	require.NoError(t, err)
	served, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); _ = engine.Serve(served, actions) }()
	defer func() { stop(); <-done }()
	run := func(id dr.RunID, p dr.Plan) dr.Status {
		require.NoError(t, engine.Start(ctx, id, p))
		st, err := dr.Wait(ctx, engine, id, nil)
		require.NoError(t, err)
		return st
	}
	p, err := engine.Save(ctx, replication.New("web", dr.Place{Site: "hq", Machine: "web"}, "away"))
	require.NoError(t, err)
	plan, err := replication.Protect(p)
	require.NoError(t, err)
	require.Equal(t, dr.RunDone, run("1-protect", plan).State)

	flow := func() dr.Plan {
		p, err := engine.Load(ctx, "web")
		require.NoError(t, err)
		plan, err := failover.Unplanned(p, failover.Options{Shutdown: true})
		require.NoError(t, err)
		after := failover.StepStart
		for _, s := range []dr.Step{
			{ID: "address", Action: azure.ActionPublicAddress, Undo: azure.ActionPublicAddress},
			{ID: "allow", Action: azure.ActionAllow, Undo: azure.ActionAllow},
			{ID: "screenshot", Action: azure.ActionScreenshot},
			{ID: "port", Action: azure.ActionCheckPort},
			{ID: "own", Action: "own.fail@1", Undo: "own.fail@1"},
		} {
			s.Input, err = json.Marshal(azure.AccessInput{Site: "away", From: "203.0.113.0/24"})
			require.NoError(t, err)
			plan, err = plan.InsertAfter(after, s)
			require.NoError(t, err)
			after = s.ID
		}
		return plan
	}
	require.Equal(t, dr.RunFailed, run("2-failover", flow()).State)
	require.Equal(t, before, r.cloud.Resources(), "what the failover made that failed is left")

	fails = false
	st := run("3-failover", flow())
	require.Equal(t, dr.RunDone, st.State, "%+v", st)
	id := func() dr.MachineID {
		p, err := engine.Load(ctx, "web")
		require.NoError(t, err)
		return p.Active.Machine
	}()
	require.True(t, r.reaches(t, id, "203.0.113.5", "22"))
}

// compute is what a person sees of machines and disks.
func (r *rig) compute(t testing.TB) *armcompute.ClientFactory {
	f, err := armcompute.NewClientFactory(r.cloud.Subscription(), r.cloud.Credential(), r.cloud.ClientOptions())
	require.NoError(t, err)
	return f
}
