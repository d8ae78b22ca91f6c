// Package remote serves any backend over the network, and is one at the far end.
package remote
