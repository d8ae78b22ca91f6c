package main

import (
	"flag"
	"net"
	"strings"
	"time"
)

// options of "worker serve".
type options struct {
	name    string
	engine  string
	journal string
	records string
	claims  string
	sites   string
	queues  []string

	temporal temporalOptions

	replicate bool
	fleet     int
	lease     time.Duration
	cycles    int
	list      time.Duration
	parallel  int
	scripts   string

	listen    string
	tokenFile string
	coarse    bool

	drain         time.Duration
	keep          time.Duration
	json, verbose bool
}

// temporalOptions say where Temporal is and how this worker shows who it is.
type temporalOptions struct {
	address, namespace, queue string
	cert, key, authorities    string
	apiKeyFile, codecKeyFile  string
	attributes                bool
	heartbeat                 time.Duration
}

const noPassword = "a password in an argument can be read by every user of this host: use PGPASSFILE or PGPASSWORD"

// serveFlags are the flags of "serve", which set o.
func serveFlags(o *options) *flag.FlagSet {
	f := flags("serve")
	f.StringVar(&o.name, "name", "", "what this worker is called among others; default: host and process")
	f.StringVar(&o.sites, "sites", "", "file, or folder of *.json files, with the sites that this worker reaches")
	f.StringVar(&o.engine, "engine", "embedded", "what makes runs durable: embedded or temporal")
	f.StringVar(&o.journal, "journal", "", "embedded: file of the journal, and of records and claims unless others are named")
	f.StringVar(&o.records, "records", "", "records of protections: postgres://... or a file; default: in the journal")
	f.StringVar(&o.claims, "claims", "", "claims on machines: postgres://..., dir:FOLDER or azblob:URL; default: where the records are")
	f.Func("queues", "sites whose steps this worker runs, with commas; default: all of -sites", func(s string) error {
		o.queues = append(o.queues, strings.Split(s, ",")...)
		return nil
	})
	f.StringVar(&o.temporal.address, "temporal", "127.0.0.1:7233", "temporal: address of the frontend")
	f.StringVar(&o.temporal.namespace, "namespace", "default", "temporal: namespace")
	f.StringVar(&o.temporal.queue, "task-queue", "", "temporal: task queue; default: that of package dr/temporal")
	f.StringVar(&o.temporal.cert, "tls-cert", "", "temporal: client's certificate, PEM")
	f.StringVar(&o.temporal.key, "tls-key", "", "temporal: its key")
	f.StringVar(&o.temporal.authorities, "tls-ca", "", "temporal: authorities of the server; default: the system's, if TLS is used at all")
	f.StringVar(&o.temporal.apiKeyFile, "api-key-file", "", "temporal: file with an API key")
	f.StringVar(&o.temporal.codecKeyFile, "codec-key-file", "", "temporal: file with a line ID:KEY for each key of 32 bytes, in base64; the first encrypts what goes into histories")
	f.DurationVar(&o.temporal.heartbeat, "heartbeat", 20*time.Second, "temporal: how long a worker may be silent before others take its steps over")
	f.BoolVar(&o.temporal.attributes, "search-attributes", false, "temporal: set those of package dr/temporal, which the namespace must have")
	f.BoolVar(&o.replicate, "replicate", true, "run replication cycles; without -fleet in one worker only")
	f.IntVar(&o.fleet, "fleet", 0, "share replication among workers in so many shards; needs records on PostgreSQL")
	f.DurationVar(&o.lease, "lease", 30*time.Second, "fleet: how long a worker that isn't heard of keeps its shards")
	f.IntVar(&o.cycles, "cycles", 64, "replication cycles at a time")
	f.DurationVar(&o.list, "list", time.Minute, "how often replication looks for new and changed records")
	f.IntVar(&o.parallel, "parallel", 64, "steps at a time")
	f.StringVar(&o.scripts, "scripts", "", "folder of the programs that recovery plans may run")
	f.StringVar(&o.listen, "listen", "127.0.0.1:9090", "address of health, metrics and runs; others than loopback need -token-file")
	f.StringVar(&o.tokenFile, "token-file", "", "file with a line NAME:TOKEN for each who may ask")
	f.BoolVar(&o.coarse, "coarse", false, "metrics tell the worst RPO of each pair of sites, and no protection by name")
	f.DurationVar(&o.drain, "drain", time.Minute, "how long what is under way may take to stop at the end")
	f.DurationVar(&o.keep, "keep", 30*24*time.Hour, "embedded: how long ended runs stay in the journal")
	f.BoolVar(&o.json, "json", false, "log as JSON")
	f.BoolVar(&o.verbose, "v", false, "log each attempt and cycle")
	return f
}

func serveUsage() string {
	var b strings.Builder
	f := serveFlags(&options{})
	f.SetOutput(&b)
	f.PrintDefaults()
	return b.String()
}

func parseServe(args []string) (options, error) {
	var o options
	if err := parse(serveFlags(&o), args); err != nil {
		return o, err
	}
	switch {
	case o.sites == "":
		return o, wrongUsage("serve: -sites is needed")
	case o.engine != "embedded" && o.engine != "temporal":
		return o, wrongUsage("serve: -engine %q: want embedded or temporal", o.engine)
	case o.engine == "embedded" && o.journal == "":
		return o, wrongUsage("serve: -engine embedded needs -journal")
	case passwordIn(o.records) || passwordIn(o.claims):
		return o, wrongUsage("serve: %s", noPassword)
	case o.engine == "temporal" && o.journal != "":
		return o, wrongUsage("serve: -journal is the embedded engine's; name the file in -records if that is meant")
	case o.engine == "temporal" && o.records == "":
		return o, wrongUsage("serve: -engine temporal needs -records")
	case o.engine == "temporal" && o.claims == "" && !isPostgres(o.records):
		return o, wrongUsage("serve: -engine temporal needs -claims")
	case (o.temporal.cert == "") != (o.temporal.key == ""):
		return o, wrongUsage("serve: -tls-cert and -tls-key go together")
	case o.fleet < 0 || o.lease <= 0 || o.temporal.heartbeat <= 0 || o.list <= 0 || o.cycles <= 0 || o.parallel <= 0 || o.drain <= 0 || o.keep < 0:
		return o, wrongUsage("serve: -fleet, -cycles, -parallel, -drain and -keep count upwards")
	case o.fleet > 0 && !isPostgres(o.records):
		return o, wrongUsage("serve: -fleet needs -records postgres://..., where the workers' leases are")
	case !loopback(o.listen) && o.tokenFile == "":
		return o, wrongUsage("serve: -listen %s can be reached from elsewhere: that needs -token-file", o.listen)
	}
	if o.claims == "" && isPostgres(o.records) {
		o.claims = o.records
	}
	return o, nil
}

// loopback reports whether an address to listen at can be reached from this
// computer alone.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
