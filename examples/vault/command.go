package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// command is a subcommand. setup defines its flags and returns what runs it
// once they are parsed.
type command struct {
	name  string
	brief string
	help  string
	setup func(*flag.FlagSet) action
}

type action func(ctx context.Context, args []string) error

const usageHead = `Usage: vault COMMAND [OPTION]... [ARGUMENT]...

Keeps the disks of machines as recovery points in a folder. A point is whole:
any one of them can be exported or served alone, and deleted without loss to
the others. Zeros take no room, nor does what equals the point before; the
rest is compressed, and encrypted if the store has a passphrase.

Commands:
`

const usageTail = `
"vault COMMAND --help" says all about a command.

Options of all commands:
  --store DIR             the folder of the store (required)
  --passphrase-file FILE  the passphrase is the content of FILE, less a line
                          end; default: $LIFEBOAT_PASSPHRASE_FILE
  --help                  this, or a command's help
Options may stand before, between or behind arguments; "--" ends them.

Environment:
  LIFEBOAT_PASSPHRASE_FILE  as --passphrase-file
  LIFEBOAT_PASSPHRASE       the passphrase itself; seen by others of the same
                            user, so prefer a file
A store that is made with a passphrase is encrypted for good, and can't be
read without it by anybody.

Exit status:
    0  done
    1  failed
    2  wrong usage
    3  verify found damage
   10  there is no store in DIR
   11  in use: another process writes to the store, or holds a file or device
   12  wrong passphrase, none given, or one given to a store without
  130  interrupted by SIGINT or SIGTERM (serve: 0)
Errors go to standard error. Progress is shown if that is a terminal.
`

func usage(w io.Writer) {
	fmt.Fprint(w, usageHead)
	for _, c := range commands {
		fmt.Fprintf(w, "  %-8s %s\n", c.name, c.brief)
	}
	fmt.Fprint(w, usageTail)
}

// dispatch finds the command, parses its options and runs it.
func dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		usage(os.Stderr)
		return wrongUsage("a command is missing")
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) < 2 {
			usage(os.Stdout)
			return nil
		}
		args = []string{args[1], "--help"}
	}
	for _, c := range commands {
		if c.name == args[0] {
			return c.run(ctx, args[1:])
		}
	}
	return wrongUsage("there is no command %q; see vault --help", args[0])
}

func (c *command) run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	do := c.setup(fs)
	rest, err := parse(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(c.help)
		return nil
	}
	if err != nil {
		return wrongUsage("%v; see vault %s --help", err, c.name)
	}
	return do(ctx, rest)
}

// parse lets options stand behind arguments too, which package flag doesn't.
func parse(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		left := fs.Args()
		if used := len(args) - len(left); used > 0 && args[used-1] == "--" {
			return append(rest, left...), nil
		}
		if len(left) == 0 {
			return rest, nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// required fails if one of the options, all of which hold text, is not set.
func required(fs *flag.FlagSet, names ...string) error {
	var missing []string
	for _, name := range names {
		if fs.Lookup(name).Value.String() == "" {
			missing = append(missing, "--"+name)
		}
	}
	if missing == nil {
		return nil
	}
	return wrongUsage("%s must be given; see vault %s --help", strings.Join(missing, " and "), fs.Name())
}
