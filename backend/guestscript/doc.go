// Package guestscript holds what is run inside a guest to learn what keeps one
// from getting into it after a failover, and reads what it prints. It is for
// backends that can run a program in a guest: Azure by run command, VMware by
// guest operations.
//
// [Linux] is for /bin/sh of any kind (tested with dash and bash), [Windows] for
// Windows PowerShell from 5.1 on. Both only read, need no argument, and print
// one line of JSON of less than 4096 bytes, which is all that Azure passes on.
// As root they tell more than as a plain user: packet filters answer nobody
// else. They say nothing that they don't know: see [Parse].
//
// Not verified on: Windows. inspect.ps1 was written from Microsoft's
// documentation and has not been run by its authors.
//
// No way into a guest may live here: that is the backend's.
package guestscript
