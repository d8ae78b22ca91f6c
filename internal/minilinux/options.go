package minilinux

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"time"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux/guest"
)

const (
	mib = 1 << 20
	// bootSize holds the kernel (14 MB), the initramfs and the loader.
	bootStart, bootSize = 1 * mib, 48 * mib
	minSize             = 96 * mib
)

// Options of Build. Only Path is needed.
type Options struct {
	Path     string      // the raw image; a file that is there is replaced
	Size     int64       // bytes, a multiple of 1 MiB from 96 MiB; zero means 256 MiB. The file is sparse
	Firmware dr.Firmware // what it boots under: BIOS (partitions of an MBR; the zero value too) or UEFI (GPT)
	Name     string      // the host's name, from which its UUIDs follow; empty means "minilinux"

	// Address of its first network card; the zero value means 10.0.2.15/24,
	// what qemu's user network expects. There is no gateway: it answers, and
	// calls, its own network only.
	Address netip.Prefix
	Service Service
}

// Service is what the machine runs. The zero value counts five times a second
// and serves on port 8080.
type Service struct {
	Port  uint16        // TCP; zero means 8080
	Every time.Duration // between two numbers; zero means 200 ms
	Ring  int           // how many last numbers keep a checked 4 KiB record; zero means 256
	Hello string        // host:port that it sends its status to, one line of JSON, once it serves; empty: nobody
}

func (o Options) withDefaults() (Options, error) {
	o.Size = cmp.Or(o.Size, 256*mib)
	o.Firmware = cmp.Or(o.Firmware, dr.BIOS)
	o.Name = cmp.Or(o.Name, "minilinux")
	if !o.Address.IsValid() {
		o.Address = netip.MustParsePrefix("10.0.2.15/24")
	}
	o.Service.Port = cmp.Or(o.Service.Port, 8080)
	o.Service.Every = cmp.Or(o.Service.Every, 200*time.Millisecond)
	o.Service.Ring = cmp.Or(o.Service.Ring, 256)
	switch {
	case o.Path == "":
		return o, errors.New("no path")
	case o.Size < minSize || o.Size%mib != 0:
		return o, fmt.Errorf("a size of %d bytes: it has to be whole MiB, %d or more", o.Size, minSize/mib)
	case o.Firmware != dr.BIOS && o.Firmware != dr.UEFI:
		return o, fmt.Errorf("firmware %q is neither %q nor %q", o.Firmware, dr.BIOS, dr.UEFI)
	case !regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`).MatchString(o.Name):
		return o, fmt.Errorf("%q is no host name", o.Name)
	case !o.Address.Addr().Is4():
		return o, fmt.Errorf("address %s: only IPv4", o.Address)
	case o.Service.Every < time.Millisecond:
		return o, fmt.Errorf("a number every %s is too often", o.Service.Every)
	case o.Service.Ring < 1 || int64(o.Service.Ring)*guest.RecordSize > (o.Size-bootSize)/2:
		return o, fmt.Errorf("%d records don't fit", o.Service.Ring)
	}
	return o, nil
}

// id makes the UUID of a part of this machine (RFC 9562, version 8): the same
// machine has the same ones whenever it is built.
func (o Options) id(part string) [16]byte {
	sum := sha256.Sum256([]byte("minilinux\x00" + o.Name + "\x00" + part))
	id := [16]byte(sum[:16])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return id
}

func uuid(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
