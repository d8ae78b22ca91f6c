package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/lifeboat-dr/lifeboat/backend"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv"
	"github.com/lifeboat-dr/lifeboat/backend/hyperv/winhost"
)

// osKinds are this system's own backends.
var osKinds = map[string]kind{"hyperv": openHyperV}

// openHyperV opens this host's Hyper-V. Behind its name may stand the folder for
// new machines, `hyperv:D:\replicas`; without one it is the host's default.
func openHyperV(folder string, log *slog.Logger) (backend.Backend, io.Closer, error) {
	ctx := context.Background()
	conn, err := winhost.Dial(ctx, winhost.Options{})
	if err != nil {
		return nil, nil, err
	}
	name, err := os.Hostname()
	if err != nil {
		name = "localhost"
	}
	h, err := hyperv.Open(ctx, hyperv.Options{Folder: folder, Log: log, Nodes: []hyperv.Node{{Name: name, Conn: conn, Disks: winhost.Disks{}}}})
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return h, conn, nil
}
