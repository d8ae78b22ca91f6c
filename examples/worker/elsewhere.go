package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/lifeboat-dr/lifeboat/dr"
)

func openTemporal(context.Context, temporalOptions, dr.Claims, *slog.Logger) (served, error) {
	return served{}, fmt.Errorf("%w yet", dr.ErrUnsupported)
}

func importRecords(context.Context, []string, io.Writer) error {
	return fmt.Errorf("%w yet", dr.ErrUnsupported)
}
