package postgres_test

import "os"

// long tells whether there is time for more of the same.
func long() bool { return os.Getenv("LIFEBOAT_LONG") != "" }
