// Package agentwire is the agent protocol.
package agentwire
