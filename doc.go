// Package lifeboat is the root of an embeddable library for disaster recovery
// of machines: it copies the disks of running machines to another site, keeps
// recovery points there, and runs the flows that bring machines up at the
// other site, make that final, and bring them home.
//
// There is no code in this package. Where to look:
//
//   - [github.com/lifeboat-dr/lifeboat/dr] has the words: machines, points,
//     images and drafts, protections, plans and runs.
//   - dr/embedded runs plans in one process, surviving kill −9.
//   - backend has the contract of a platform, and a folder for each platform.
//   - recoverypoint has the contract of a store of points, the rules of
//     selection and retention, and the vault, the embedded store.
//   - replication copies, and keeps points young.
//   - failover and failback plan the flows and hold their actions.
//   - examples are programs to copy from; begin with examples/quickstart.
package lifeboat
