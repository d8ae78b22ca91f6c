// Command worker is what a platform team starts its own from: one program that
// serves runs and replication, alone or with many like it, on any engine.
//
//	worker simulate -dir sim -site berlin=127.0.0.1:0 -site bonn=127.0.0.1:0 -machines 100 &
//	worker serve -sites sim/sites -journal worker.db
//
// serves two simulated sites. From another terminal:
//
//	alias ask='curl -s -H Content-Type:application/json'
//	ask localhost:9090/readyz
//	ask localhost:9090/protections -d '{"from":"berlin","to":"bonn","all":true}'
//	ask localhost:9090/runs -d '{"flow":"protect","all":"berlin","run":"first"}'
//	ask 'localhost:9090/runs/first-berlin-00003?wait=1m'
//	ask localhost:9090/status
//	ask localhost:9090/runs -d '{"flow":"unplanned-failover","protection":"berlin-00003","run":"flood-3"}'
//	ask 'localhost:9090/runs/flood-3?wait=1m'
//
// # Engines
//
// With -engine embedded a worker's runs are its own: they lie in -journal, and
// go on when it is started again. Several such workers share records and claims
// by -records and -claims, so that two never hold one machine. With -engine
// temporal all workers serve all runs: what one leaves another goes on with.
// Flows, records and this program's interface are the same.
//
//	worker serve -sites sites -engine temporal -temporal temporal:7233 -namespace lifeboat \
//	    -codec-key-file payload.key -records postgres://lifeboat@db/lifeboat
//
// Passwords don't belong in arguments, which every user of a host can read:
// PostgreSQL's are taken from PGPASSFILE or PGPASSWORD.
//
// # Sites
//
// The file, or each file of the folder, that -sites names:
//
//	{
//	  "sites": {
//	    "berlin": {
//	      "machines": {"kind": "agent", "address": "disks1.example.com:8443",
//	                   "cert": "worker.pem", "key": "worker.key", "authorities": "ca.pem"},
//	      "points":   {"kind": "vault", "folder": "/srv/points", "passphraseFile": "points.key"}
//	    },
//	    …
//	  },
//	  "policies": {"gold": {"every": "5m", "forward": {"keep": "24h", "rpo": "15m"}}}
//	}
//
// Paths are told from the file. In place of cert, key and authorities, whose files may
// be replaced at any time, "identity" names the folder that "agent enrol" (examples/agent)
// made for this worker as a client of the owner's authority. A folder of points that
// several workers write to has a vault for each machine ("perMachine": true), from its
// first point on. Kinds are registered in kinds.go, own steps and what recovery plans
// call in callbacks.go: ten lines each.
//
// # Replication
//
// A worker begins the cycles of all protections whose two sites it reaches. Of
// several workers one does, the others have -replicate=false; or all share them
// with -fleet (replication/fleet), which needs PostgreSQL.
//
// # What it answers
//
//	GET  /healthz                 it lives
//	GET  /readyz                  it reaches its engine, records and sites, or what it doesn't and why
//	GET  /metrics                 for Prometheus: replication/telemetry, gauges.go, and the process
//	GET  /status                  what it does; ?protections=1 with each protection
//	GET  /protections             ?state= and ?site=
//	POST /protections             {"from","to","machine"|"all":true,"policy","group"}
//	GET  /protections/ID          its record and health
//	POST /protections/ID/pause    and /resume
//	GET  /runs                    ?open=1, ?state= and ?flow=
//	POST /runs                    {"run","flow","protection"|"protections"|"all":SITE|"plan":{...}} and the flow's options
//	GET  /runs/ID                 ?wait=1m until it ends or waits for a person
//	POST /runs/ID/decide          {"step","verdict":"approve"|"reject"|"retry"|"skip"|"give-up","by"}
//	POST /runs/ID/cancel          {"why","by"}
//
// GET /runs tells of each run the steps that hold it up; GET /runs/ID tells of all.
// A plan's run starts one for each machine, whose ID is PLANRUN/PROTECTION.
//
// At a loopback address whoever is on the computer may ask. At others -token-file
// is needed, and who decides is the token's name; put a proxy that speaks TLS in
// front. Without a token only /healthz, and /readyz as a bare yes or no, answer.
//
// # Its end
//
// SIGTERM makes it unready; then it takes nothing on, has steps and cycles stop,
// which go on elsewhere or here later, gives back what it holds, and ends, within
// -drain. A second signal ends it at once, as a kill does: runs go on all the
// same. It exits with 0 if everything had stopped, and 4 if not.
//
// # A site that is cut off
//
// Its steps are taken for lost after -heartbeat, and wait for a worker of that
// site, which GET /runs/ID says ("queue", "awaits"); everything else goes on.
// TestCutOff shows it in network namespaces, with the simulated platforms' own
// account of what was done to them (their GET /effects) to tell that nothing was
// done twice.
//
// worker.service runs it under systemd, compose.yaml beside Temporal on
// PostgreSQL. docs/running.md sets up three sites with it, and says what to do about
// each alert of alerts.yml.
package main
