// Package temporal is the orchestrator for many processes at several sites: the
// same plans, driven by the same fold, on a Temporal server.
package temporal
