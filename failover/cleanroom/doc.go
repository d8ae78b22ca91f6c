// Package cleanroom looks for the newest recovery point that a scan calls
// clean. Points are opened read-only and nothing is started: no machine, no
// network, no claim. To start a machine of the point found, in an isolated
// network, is a test failover with recoverypoint.Custom (failover.Test).
//
// The scan is the caller's: a virus scanner on the file systems of the image, a
// search for ransom notes, a checksum of a database. It gets a dr.Image, which
// failover/readiness/offline makes an fs.FS of.
package cleanroom
