// Package guest is what the builder of the small Linux, the program that runs
// in it and whoever watches it agree on: its configuration, the lines that it
// says on its serial console, its status, and the format of what it keeps.
//
// What may not live here: anything that needs to run inside a machine.
package guest
