// Package permachine makes one PointStore of many: one a machine, opened when
// it is first asked for. It is for fleets: a store that one process at a time
// may write to, as a vault, is then written to by as many processes as there
// are, each for its own machines, and whoever takes a machine over takes its
// store.
//
//	s := permachine.New(permachine.Options{
//		Open: func(ctx context.Context, m dr.MachineID) (recoverypoint.PointStore, error) {
//			return vault.OpenDir(filepath.Join(root, permachine.Name(m)), vault.Options{})
//		},
//	})
//
// Nothing is lost by it that vaults have: they share chunks along one machine's
// points only.
//
// What may not live here: how a store keeps points, and which process may write
// for which machine.
package permachine
