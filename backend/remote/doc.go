// Package remote serves any backend over the network, and is that backend at the
// far end: [Serve] beside the disks, [Dial] where a replicator or an orchestrator
// runs. A Hyper-V host's virtual disks and a physical machine's can be opened on
// that host only; what runs there is an agent (examples/agent), which serves
// backend/hyperv or backend/physical.
//
// Here live the server and the client, and nothing of any platform. The bytes on
// the wire are package internal/agentwire's, which describes them one by one.
// Package enrol gives agents and clients their certificates; trialpki makes some for
// tests and first trials.
//
// # What carries over
//
// The contracts of packages backend and dr, whole, as backendtest shows on a
// served backend/memory. Abilities are those of the served backend, image and
// draft, found with dr.As; only dr.Adopter is not, as an image from elsewhere
// can't be taken by a draft here, and abilities that a platform's own package
// defines. Block sums are made where the disks are; where the image has none, the
// agent makes none either. Zeros don't travel. Deadlines and the end of a context
// do. Errors keep their place, their sentinels and whether they are permanent.
//
// A Sweeper's keep is asked at the client: the agent first lists what it would ask
// about, then sweeps what was not kept, and of that only.
//
// # Who gets in
//
// There is no door without TLS 1.3 and certificates that both sides verify. Behind it
// is HTTP/1.1: GET /v1/session becomes a client's connection, with the version of the
// protocol in its path, GET /healthz and GET /metrics are for who watches, and everything
// else is refused, told why, and logged. [Handler] is the same in a program's own server.
// Certificates and authorities may change while an agent serves (GetTLS), and a client
// whose certificate is good no more is put out (Recheck): docs/decisions/0028.
//
// [ServeOptions].Authorize decides further, by the client's certificate, and may
// narrow a client to some machines ([Scope]). A client narrowed so can't make
// replicas: which it made is nowhere recorded.
//
// # When the connection breaks
//
// A client's connections are one session, and one that breaks ends it. The agent
// then closes all that the client had open, and thaws at once what it had
// quiesced. See [Client] for what the far end does: calls are repeated, images are
// opened again if that finds the very moment that they are of, drafts end and are
// resumed by the copy's own means. Why, and what is still bad, is in
// docs/decisions/0024.
//
// # Fences
//
// A call's fences travel with it, and the served backend heeds them; of a draft,
// those that it was opened with. A client that stood still finds its session ended,
// and repeats its call in a new one: under its own epochs, so that it is refused if
// another has taken over. An agent of an earlier version heeds none, which the
// client logs.
//
// # Bounds
//
// An agent's memory is bounded by ServeOptions.Buffers, 1 MiB each, and some 350
// KiB a connection, whatever clients ask for and whether they read it. A stream (changes,
// maps, machines) waits for its reader. A frame that an agent or a client doesn't
// expect ends the session.
//
// # Lines
//
// A line may be slow: a peer is dead when not a byte of it came for three times
// KeepAlive, and not because a request of 1 MiB takes longer. At 1 Mbit/s eight of
// them take 67 s each way, and the session lives on. Whoever is cut off for longer
// than that silence, 15 s by default, has lost what it had open, and what it had
// frozen thaws: 14.5 s after a cable was pulled, in the tests. A call then tries for
// DialOptions.Patience to come back, so it hangs for silence and patience at most.
//
// A line may be far: a client keeps 8 MiB in flight, which fills 1 Gbit/s up to a
// round trip of 64 ms. At 200 ms that is 37 MiB/s of the 40 that it can be; with
// ServeOptions.Bulk and the copy's Readers at 32 it is 148 of 160.
//
// A line may break: what travels again is the requests that were in flight, and of a
// draft what sums show to be missing, 16 bytes for 64 KiB. A resync of 8 GiB that
// haven't changed takes 2.1 MiB from the agent and 0.15 MiB to it.
//
// A bit that is turned over on the way is an end of the connection: TLS sees it.
//
// # Not verified
//
// Real lines: delay and rate were made by a proxy, and lost packets, pulled cables
// and killed processes by Linux, between network namespaces of one machine.
package remote
