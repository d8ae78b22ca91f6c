package guest

import "strings"

// What the machine says on its serial console, each at the start of a line of
// its own, with a value behind one space. In this order after a start:
// Journal, Ring, Recovered, Serving, then Counter every second.
const (
	Journal   = "lifeboat-journal"   // "clean", or "replayed" after a crash
	Ring      = "lifeboat-ring"      // "ok N" for N whole records, else "damaged" and which
	Recovered = "lifeboat-recovered" // the number that was durable when it started
	Serving   = "lifeboat-serving"   // the address and port, once connections are taken
	Counter   = "lifeboat-counter"   // the newest durable number
	Stopped   = "lifeboat-stopped"   // the last number of a shutdown that was asked for; power goes off next
	Failed    = "lifeboat-failed"    // why nothing works
)

// Parse takes one line of the console apart: the word and its value. Others'
// lines, such as the kernel's, give ok false. Terminals' carriage returns are
// dropped.
func Parse(line string) (word, value string, ok bool) {
	word, value, _ = strings.Cut(strings.TrimSpace(line), " ")
	switch word {
	case Journal, Ring, Recovered, Serving, Counter, Stopped, Failed:
		return word, value, true
	}
	return "", "", false
}
