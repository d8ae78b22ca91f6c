// Package azuretest is a simulated Azure for tests.
package azuretest
