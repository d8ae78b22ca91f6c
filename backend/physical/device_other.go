//go:build !linux

package physical

// Nothing is known of devices here.

func hardwareName(string) (string, error) { return "", nil }

func logicalSector(string) (int64, error) { return 0, nil }

func deallocate(string, int64, int64) (bool, error) { return false, nil }

func rereadTable(string) error { return nil }
