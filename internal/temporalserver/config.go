package temporalserver

import (
	"cmp"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"text/template"

	"github.com/lifeboat-dr/lifeboat/internal/pgtest"
)

// ports are those that a server listens on; they stay the same when it starts
// again, as its members look for each other there.
type ports struct {
	Frontend, HTTP, History, Matching, Worker int
	FrontendM, HistoryM, MatchingM, WorkerM   int
	Metrics, Profile                          int // where they are asked for
}

// freePorts takes all at once, so that no two are the same. They are below
// 32768: Temporal keeps ports of members in a smallint of PostgreSQL's, and
// the kernel gives others away meanwhile only above.
func freePorts() (p ports, err error) {
	for _, to := range []*int{&p.Frontend, &p.HTTP, &p.History, &p.Matching, &p.Worker, &p.FrontendM, &p.HistoryM, &p.MatchingM, &p.WorkerM, &p.Metrics, &p.Profile} {
		for try := 0; *to == 0; try++ {
			port := 10000 + rand.IntN(22000)
			l, err := net.Listen("tcp", local(port))
			if err != nil {
				if try == 100 {
					return p, err
				}
				continue
			}
			defer l.Close()
			*to = port
		}
	}
	return p, nil
}

// impatient is for tests, which don't wait for caches. It costs a fourth of
// what the server asks its database for, so it isn't for measuring.
const impatient = `system.namespaceCacheRefreshInterval:
  - value: 1s
system.forceSearchAttributesCacheRefreshOnRead:
  - value: true
`

const dynamic = `# Few tasks, so few partitions.
matching.numTaskqueueReadPartitions:
  - value: 1
matching.numTaskqueueWritePartitions:
  - value: 1
frontend.namespaceRPS:
  - value: 20000
frontend.namespaceRPS.visibility:
  - value: 2000
`

var serverConfig = template.Must(template.New("").Parse(`log:
  stdout: true
  level: {{.Level}}
persistence:
  defaultStore: main
  visibilityStore: visibility
  numHistoryShards: 4
  datastores:
    main:
      sql: &sql
        pluginName: postgres12
        databaseName: temporal
        connectAddr: "{{.DB.Host}}"
        connectProtocol: tcp
        user: postgres
        password: "{{.DB.Password}}"
        maxConns: 20
        maxIdleConns: 20
        maxConnLifetime: 1h
    visibility:
      sql:
        <<: *sql
        databaseName: temporal_visibility
        maxConns: 5
        maxIdleConns: 5
global:
{{- if .Measure}}
  metrics:
    prometheus:
      framework: opentelemetry
      listenAddress: "127.0.0.1:{{.Ports.Metrics}}"
  pprof:
    host: 127.0.0.1
    port: {{.Ports.Profile}}
{{- end}}
  membership:
    maxJoinDuration: 30s
    broadcastAddress: 127.0.0.1
{{- if .TLS}}
  tls:
    frontend:
      server:
        certFile: "{{.TLS.ServerCert}}"
        keyFile: "{{.TLS.ServerKey}}"
        requireClientAuth: true
        clientCaFiles: ["{{.TLS.CA}}"]
      client:
        serverName: localhost
        rootCaFiles: ["{{.TLS.CA}}"]
    systemWorker:
      certFile: "{{.TLS.Cert}}"
      keyFile: "{{.TLS.Key}}"
      client:
        serverName: localhost
        rootCaFiles: ["{{.TLS.CA}}"]
{{- end}}
services:
  frontend:
    rpc: {grpcPort: {{.Ports.Frontend}}, membershipPort: {{.Ports.FrontendM}}, httpPort: {{.Ports.HTTP}}, bindOnLocalHost: true}
  matching:
    rpc: {grpcPort: {{.Ports.Matching}}, membershipPort: {{.Ports.MatchingM}}, bindOnLocalHost: true}
  history:
    rpc: {grpcPort: {{.Ports.History}}, membershipPort: {{.Ports.HistoryM}}, bindOnLocalHost: true}
  worker:
    rpc: {grpcPort: {{.Ports.Worker}}, membershipPort: {{.Ports.WorkerM}}, bindOnLocalHost: true}
clusterMetadata:
  enableGlobalNamespace: false
  failoverVersionIncrement: 10
  masterClusterName: active
  currentClusterName: active
  clusterInformation:
    active:
      enabled: true
      initialFailoverVersion: 1
      rpcName: frontend
      rpcAddress: "127.0.0.1:{{.Ports.Frontend}}"
dcRedirectionPolicy:
  policy: noop
publicClient:
  hostPort: "127.0.0.1:{{.Ports.Frontend}}"
dynamicConfigClient:
  filepath: "{{.Dynamic}}"
  pollInterval: 10s
`))

// configure writes the server's configuration below dir and returns its path.
func (o Options) configure(dir string, p ports, db *pgtest.Cluster, tls *Files) (string, error) {
	level := cmp.Or(o.Level, "error")
	dynamicPath := filepath.Join(dir, "dynamic.yaml")
	settings := dynamic
	if !o.Measure {
		settings += impatient
	}
	if err := os.WriteFile(dynamicPath, []byte(settings), 0o600); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "config.yaml")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return path, serverConfig.Execute(f, map[string]any{"Level": level, "Ports": p, "DB": db, "TLS": tls, "Dynamic": dynamicPath, "Measure": o.Measure})
}
