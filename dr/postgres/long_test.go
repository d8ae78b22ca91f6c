package postgres_test

import (
	"os"
	"time"
)

// long tells whether there is time for more of the same.
func long() bool { return os.Getenv("LIFEBOAT_LONG") != "" }

// unhurried is the patience of clients whose server is restarted on a machine
// that has much else to do.
const unhurried = 3 * time.Minute
