package guest

import "time"

// Where the machine has its things.
const (
	ConfigFile  = "/etc/lifeboat/guest.json"
	NetworkFile = "/etc/network/interfaces"
	CounterFile = "/var/lib/lifeboat/counter"
	RingFile    = "/var/lib/lifeboat/ring"
)

// Config is the JSON in ConfigFile.
type Config struct {
	Port  uint16        `json:"port"`
	Every time.Duration `json:"every_ns"`
	Ring  int           `json:"ring"` // records
	Hello string        `json:"hello,omitempty"`
}

// Status is what the machine answers to GET /status, and says to Hello.
type Status struct {
	Host      string `json:"host"`
	Counter   uint64 `json:"counter"`   // the newest durable number
	Recovered uint64 `json:"recovered"` // what it was when this boot began
	Boots     uint64 `json:"boots"`     // how often it started, this time included
	Replayed  bool   `json:"replayed"`  // the root's journal had to be replayed: it was not shut down
	Ring      string `json:"ring"`      // what the check of the records found
	Firmware  string `json:"firmware"`  // "bios" or "uefi"
	Root      string `json:"root"`      // the device, such as vda2
	Kernel    string `json:"kernel"`
	Uptime    string `json:"uptime"`
}
