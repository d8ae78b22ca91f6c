package main

const help = `Usage: vsphere-to-directory --store DIR [OPTION]... [MACHINE...]
       vsphere-to-directory --list [OPTION]... [MACHINE...]
       vsphere-to-directory --check [OPTION]...

Copies virtual machines of a vCenter, or of an ESXi host, into a folder as
recovery points. The first point of a machine has all its data, every later
one what changed since, by vSphere's change tracking, which is enabled where it
is off. Each point is whole: any one can be restored, and deleted without loss
to the others. The machines run on; each has a snapshot while it is copied.

The folder is made if there is none. The command "vault" lists (vault ls),
checks (vault verify), exports and serves what is in it; points are filed there
under the machine's instance UUID, which --list prints. One process at a time
may write to a folder.

Machines:
  MACHINE            a machine's name, in any folder, or its instance UUID
  --name PATTERN     those whose name fits, as 'web-*'; may be given again
  --folder PATH      those in an inventory folder or below it, as govc prints
                     them, "/DC0/vm/prod"; may be given again
  --all              all that the account sees
  --exclude PATTERN  not those whose name fits; may be given again
  --dc NAME          only of this datacenter
With --name and --folder both must fit; a MACHINE counts besides. Patterns and
folders are looked up anew for each round. Templates are left out.

What to do:
  --once             one round (default)
  --every DURATION   a round every DURATION, as 5m, until a signal comes; one
                     that takes longer is followed by the next at once
  --list             print the machines and what stands in the way of
                     protecting them, and do nothing; without --name and so on
                     all machines
  --check            print what the account and the server lack, and do nothing

How:
  --consistency KIND crash (default), as after a power cut; or application:
                     guests are asked to flush and hold still, through VMware
                     Tools. Where that fails the point is made nevertheless,
                     and the table says what was achieved.
  --keep DURATION    delete points of these machines that are older, but never
                     the newest of one; default 72h. Units are w, d, h, m, s.
  --parallel N       machines that are copied at once; default 4
  --limit SIZE       read no more than SIZE a second of all together, as 100MiB
  --keep-snapshots   leave the snapshots of copies that a signal interrupts, and
                     what was copied: the next round goes on with them. Without
                     it both are given up.
  --verbose          tell more: which way disks are read, sessions, tracking

How disks are read:
  --vddk DIR         by VMware's VDDK, unpacked in DIR, through nbdkit with its
                     vddk plugin, which must be installed. Give it where you
                     can: other ways but hotadd read a disk whole each time,
                     from its beginning to the last change.
  --nbdkit FILE      the nbdkit to start; default: that in PATH
  --transport LIST   only these ways, the most wanted first, separated by
                     commas: vddk; hotadd (this runs in a machine of the same
                     vCenter); folder (machines that are off); nfc.
                     Default: vddk if --vddk is given, then folder,nfc.
  --appliance UUID   hotadd: the instance UUID of the machine that this runs in

vSphere:
  -u URL             the server, user@host or https://user@host:port/sdk
                     ($GOVC_URL)
  -k                 don't verify its certificate: whoever is in between learns
                     the password ($GOVC_INSECURE)
  --tls-ca-certs FILE     verify it by these roots, PEM ($GOVC_TLS_CA_CERTS)
  --tls-known-hosts FILE  or by its thumbprint in FILE, lines "HOST THUMBPRINT"
                     as of govc about.cert -thumbprint ($GOVC_TLS_KNOWN_HOSTS)

Environment, as for govc; options win:
  GOVC_URL           may hold user and password
  GOVC_USERNAME      the user
  GOVC_PASSWORD      the password, or the path of a file that holds it. There
                     is no option for it: others can read command lines.
  GOVC_INSECURE, GOVC_TLS_CA_CERTS, GOVC_TLS_KNOWN_HOSTS, GOVC_DATACENTER

Encryption:
  --passphrase-file FILE    the passphrase is the content of FILE, less a line
                            end; default: $LIFEBOAT_PASSPHRASE_FILE
  LIFEBOAT_PASSPHRASE       the passphrase itself; seen by others of the same
                            user, so prefer a file
A folder that is made with a passphrase is encrypted for good, and can't be
read without it by anybody.

Each round ends with a table on standard output: the consistency that was
achieved; the bytes that could have CHANGED since the last point, those that
were READ, and those new to the folder, before compression (STORED); how old the
newest point is (RPO). A machine that fails doesn't hold up the others. Whatever
interrupts the command, kill -9 too: start it again with the same folder. It
goes on where it was, and removes what snapshots are left.

Signals: at the first SIGINT or SIGTERM copies end, and their snapshots are
removed; the second ends the command at once.

Exit status (with --every that of the last round):
    0  done, every machine has a new point
    1  failed, or every machine did
    2  wrong usage
    3  some machines failed, the others are done; or --list or --check found
       what stands in the way
   11  in use: another process writes to the folder
   12  wrong passphrase, none given, or one given to a folder without
   13  vSphere can't be reached, isn't trusted, or refuses the login
  130  interrupted by SIGINT or SIGTERM in a round
Errors go to standard error, and so does progress.
`
