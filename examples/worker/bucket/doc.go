// Package bucket keeps a vault's objects in the memory of one process, and
// serves them to others over HTTP: [New] makes a bucket, [Handler] serves any,
// and [Dial] is that bucket at the far end. So several workers share the
// recovery points of a simulated site, and lose them when they are cut off from
// it, as they would lose a real one.
//
// It is for simulations: what is in memory is gone with the process. A real
// site's vault lies in a folder or an object store (recoverypoint/vault,
// recoverypoint/vault/azbucket). Who may come in is the HTTP server's affair:
// Handler looks at no certificate.
//
// What knows of machines, points or vaults doesn't belong here.
package bucket
