package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"

	"github.com/lifeboat-dr/lifeboat/dr"
	"github.com/lifeboat-dr/lifeboat/dr/temporal"
)

// openTemporal connects to Temporal and opens the engine there.
func openTemporal(ctx context.Context, o options, claims dr.Claims, sites []string, log *slog.Logger) (served, error) {
	t := o.temporal
	c := temporal.ConnectOptions{Address: t.address, Namespace: t.namespace, APIKeyFile: t.apiKeyFile, Identity: o.name, Log: log}
	if t.cert != "" || t.authorities != "" {
		c.TLS = &temporal.TLS{CA: t.authorities, Cert: t.cert, Key: t.key}
	}
	if t.codecKeyFile != "" {
		keys, err := readKeys(t.codecKeyFile)
		if err != nil {
			return served{}, err
		}
		if c.Codec, err = temporal.NewCodec(temporal.CodecOptions{Keys: keys}); err != nil {
			return served{}, err
		}
	}
	conn, err := temporal.Connect(ctx, c)
	if err != nil {
		return served{}, err
	}
	e, err := temporal.Open(conn, temporal.Options{Claims: claims, Queue: t.queue, Sites: sites, Parallel: o.parallel,
		SearchAttributes: t.attributes, Heartbeat: t.heartbeat, Log: log})
	if err != nil {
		conn.Close()
		return served{}, err
	}
	return served{e, closeFunc(func() error {
		defer conn.Close()
		return e.Close()
	})}, nil
}

// readKeys reads a file with a line ID:BASE64 for each key; the first encrypts.
// Errors name the line, never what is in it.
func readKeys(path string) (keys []temporal.Key, err error) {
	raw, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	for i, line := range bytes.Split(raw, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		id, text, ok := bytes.Cut(line, []byte(":"))
		secret, wrong := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
		if !ok || wrong != nil {
			return nil, fmt.Errorf("%w: %s, line %d: want ID:KEY with 32 bytes in base64", dr.ErrInvalid, path, i+1)
		}
		keys = append(keys, temporal.Key{ID: string(id), Secret: secret})
	}
	return keys, nil
}
