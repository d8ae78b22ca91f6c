package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/vmware"
	"github.com/lifeboat-dr/lifeboat/dr"
)

// list prints the machines, and what stands in the way.
func list(ctx context.Context, v *vmware.VSphere, s *selection) error {
	machines, err := s.find(ctx, v)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MACHINE\tINSTANCE UUID\tPOWER\tDISKS\tSIZE\tPROTECTABLE")
	var lines []string
	refused := 0
	for _, m := range machines {
		found, err := v.Preflight(ctx, m.ID)
		if err != nil {
			return err
		}
		can := "yes"
		if len(blockers(found)) > 0 {
			can = "no"
			refused++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", m.Name, m.ID, m.Power, len(m.Disks), size(total(m.Disks)), can)
		for _, p := range found {
			lines = append(lines, m.Name+": "+finding(p))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(lines) > 0 {
		fmt.Println()
	}
	for _, l := range lines {
		fmt.Println(l)
	}
	if refused > 0 {
		return fmt.Errorf("%w: %d of %s can't be protected", errIncomplete, refused, plural(len(machines), "machine", "machines"))
	}
	return nil
}

// check prints what the account and the server lack.
func check(ctx context.Context, v *vmware.VSphere) error {
	found, err := v.Check(ctx)
	if err != nil {
		return err
	}
	for _, p := range found {
		fmt.Println(finding(p))
	}
	if n := len(blockers(found)); n > 0 {
		return fmt.Errorf("%w: %s in the way", errIncomplete, plural(n, "thing stands", "things stand"))
	}
	fmt.Println("nothing stands in the way")
	return nil
}

func blockers(all []backend.Problem) (some []backend.Problem) {
	for _, p := range all {
		if p.Blocker {
			some = append(some, p)
		}
	}
	return some
}

// finding is a problem in one line.
func finding(p backend.Problem) string {
	kind := "note"
	if p.Blocker {
		kind = "refused"
	}
	s := kind + ": "
	if p.Disk != "" {
		s += fmt.Sprintf("disk %s: ", p.Disk)
	}
	s += fmt.Sprintf("%s [%s]", p.Text, p.Code)
	if p.Remedy != "" {
		s += ": " + p.Remedy
	}
	return s
}

func total(disks []dr.Disk) (n int64) {
	for _, d := range disks {
		n += d.Size
	}
	return n
}
