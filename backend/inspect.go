package backend

import (
	"context"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
)

// Inspector is an ability of backends: what can be told of the inside of a
// machine, through the guest's tools or agent.
type Inspector interface {
	// Inspect asks the guest, which must run, until ctx ends. What it can't
	// tell is left unknown, with a line in Facts.Unknown that says why: an
	// error only means that nothing at all could be learnt. It changes
	// nothing in the guest. dr.ErrUnsupported: the platform has no way into
	// this guest (no tools, no credentials), and the error says what to do.
	Inspect(ctx context.Context, id dr.MachineID) (Facts, error)
}

// Facts are what is known of the inside of a machine: from its running guest
// ([Inspector]), or from the file systems of a recovery point. What isn't
// known is empty; it is never to be taken for fine.
type Facts struct {
	OS      string    `json:"os,omitempty"`      // "windows" or "linux"
	Release string    `json:"release,omitempty"` // "Debian GNU/Linux 12 (bookworm)"
	From    string    `json:"from"`              // how it was learnt: "guest operations", "run command", "recovery point ID"
	At      time.Time `json:"at"`                // the moment that the facts are of

	// RemoteAccess: the service by which one gets in starts at boot and is
	// allowed: Remote Desktop on Windows, sshd on Linux.
	RemoteAccess Fact `json:"remoteAccess,omitzero"`
	// Firewall lets that service through, by profile: on Windows "domain",
	// "private" and "public" for TCP, and "domain-udp", "private-udp" and
	// "public-udp"; on Linux "input".
	Firewall map[string]Fact `json:"firewall,omitempty"`
	// SANPolicy of Windows is OnlineAll; Detail is what it is: "OnlineAll",
	// "OfflineShared", "OfflineAll", "OfflineInternal". On Linux it stays
	// unknown.
	SANPolicy Fact `json:"sanPolicy,omitzero"`
	// UpdatesPending: a restart or an installation of updates is due.
	UpdatesPending Fact `json:"updatesPending,omitzero"`
	// BootDrivers says by name whether a driver is there when the machine
	// boots: in the initramfs or the kernel on Linux ("hv_vmbus",
	// "hv_storvsc", "hv_netvsc", "ata_piix", "ata_generic"), boot-started on
	// Windows ("storvsc", "vmbus", "storflt", "intelide", "atapi").
	BootDrivers map[string]Fact `json:"bootDrivers,omitempty"`
	// DHCP: the first card gets its address by DHCP.
	DHCP Fact `json:"dhcp,omitzero"`
	// DHCPService: the service that asks for addresses may start, whether or
	// not a card uses it: Windows' service Dhcp isn't disabled.
	DHCPService Fact `json:"dhcpService,omitzero"`
	// StableMounts: nothing that is mounted at boot is named by a path that
	// changes with the platform, such as /dev/sda1.
	StableMounts Fact `json:"stableMounts,omitzero"`
	// Agents by name ("mobility", "vmware-tools", "azure-guest-agent",
	// "hyper-v-integration"): Yes with the version as Detail, or No.
	Agents map[string]Fact `json:"agents,omitempty"`

	// Unknown says what could not be told, and why, a line each.
	Unknown []string `json:"unknown,omitempty"`
}

// Fact is one answer, with what it was read from.
type Fact struct {
	Answer Answer `json:"answer,omitempty"`
	// Detail is the value that was found, or why the answer is what it is:
	// "PermitRootLogin no", "service ssh.socket is masked".
	Detail string `json:"detail,omitempty"`
}

// Answer is yes, no, or not known: the zero value, which no check passes.
type Answer string

// Answers.
const (
	Unknown Answer = ""
	Yes     Answer = "yes"
	No      Answer = "no"
)
