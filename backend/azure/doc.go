// Package azure is the backend for Microsoft Azure: a subscription is a full
// Source and Target.
package azure
