package guestscript

import _ "embed"

// Linux is a script for /bin/sh that prints the facts of a Linux guest.
//
//go:embed scripts/inspect.sh
var Linux string

// Windows is a script for PowerShell that prints the facts of a Windows guest.
//
//go:embed scripts/inspect.ps1
var Windows string
