package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/lifeboat-dr/lifeboat/backend/physical/qemu"
	"github.com/lifeboat-dr/lifeboat/internal/minilinux/guest"
)

// The machine, as internal/minilinux builds it. For one of your own, say what its
// sign of life is.
const (
	guestPort   = 8080
	guestMemory = 256 << 20
)

var evidence = []qemu.Evidence{
	qemu.HTTP{Port: guestPort, Path: "/status", Want: regexp.MustCompile(`"counter":\d+`)},
}

// ask reads the machine's page.
func ask(ctx context.Context, page string) (s guest.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+page+"/status", nil)
	if err != nil {
		return s, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, fmt.Errorf("the machine's page: %w", err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return s, fmt.Errorf("the machine's page: %s", r.Status)
	}
	return s, json.NewDecoder(http.MaxBytesReader(nil, r.Body, 64<<10)).Decode(&s)
}
