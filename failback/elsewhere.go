package failback

import (
	"fmt"
	"maps"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/failover"
)

// Elsewhere returns the record of a machine that is to come home to another
// place than the one that it left: to a third site, as a physical server that
// failed over to Azure fails back to VMware, or to a machine that was rebuilt.
// The caller saves it, and then plans as ever: [Reprotect] and [Failback], or a
// direct failback.
//
// to is the site, which becomes home; and a machine there that is to be used, if
// there is one: it is found as an original, and its disks are overwritten.
// Without a machine one is made. to.Key must be "".
//
// Nothing is known of what the disks there have in common with the machine's,
// so all of it travels. The machine that was left stays where it is, off, and
// nobody's: removing it is its owner's matter. The record must be Committed and
// away from home, and no run may hold it (dr.ErrNotAllowed); a run that begins
// meanwhile makes the save fail with dr.ErrConflict.
func Elsewhere(p dr.Protection, to dr.Place) (dr.Protection, error) {
	no := func(sentinel error, why string) (dr.Protection, error) {
		return dr.Protection{}, fmt.Errorf("protection %s: %w: %s", p.ID, sentinel, why)
	}
	switch {
	case to.Site == "" || to.Key != "":
		return no(dr.ErrInvalid, "a place to come home to is a site, and maybe a machine that is there already, without a key")
	case to.Site == p.Active.Site:
		return no(dr.ErrInvalid, "the machine runs at "+to.Site+" already")
	case p.State != dr.Committed:
		return no(dr.ErrNotAllowed, "state is "+string(p.State)+"; the place to come home to is chosen when a failover is committed and the machine isn't reprotected yet")
	case p.AtHome():
		return no(dr.ErrNotAllowed, "the machine is at home")
	case p.Run != "":
		return no(dr.ErrNotAllowed, "run "+string(p.Run)+" holds it")
	case p.Test != nil:
		return no(dr.ErrNotAllowed, "a test failover is "+string(p.Test.State)+": clean it up first")
	case to == p.Standby:
		p.Home = to.Site
		return p, nil
	}
	p.Home, p.Standby, p.Common, p.Pins = to.Site, to, dr.Point{}, maps.Clone(p.Pins)
	p.Unpin(failover.PinStandby)
	return p, nil
}
