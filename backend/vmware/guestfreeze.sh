# Freezes a Linux guest's file systems until it is told to stop, or until its
# time is over. Before this stand: dir, a folder in memory of our own; mounts,
# the list of mounts; hooks, the folder of freeze.d and thaw.d, or nothing;
# limit, how long to stay frozen, and patience, how long the hooks may take, in
# seconds.
#
# Several processes see to it that the guest thaws, whichever of them dies:
#   the first   freezes, and thaws when it is asked to, or some time after limit;
#   end         thaws when the first and whatever it was doing is no more: the
#               kernel tells it so, by the end of a pipe that they hold;
#   over        thaws after limit;
#   last        has the kernel thaw everything, where even starting fsfreeze hangs.
# While anything is frozen nothing is written but to memory, and nothing is
# started but fsfreeze, which was run once before. Reading never waits.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 077
set -f # mounts may have stars in their names
role=$1 first=$2
if [ $# -gt 2 ]; then
	shift 2
	targets=$*
fi

say() { printf '%s\n' "$*" 2>/dev/null >>"$dir/state"; }
# The list of mounts writes spaces and such as \040; so do our own files.
plain() { printf '%b' "$1"; }

# thaw thaws what was begun, and not what others have frozen. Should somebody
# have removed our folder, it thaws everything.
thaw() {
	began=' ' not=' ' pids=
	if [ -e "$dir/began" ]; then
		while read -r m; do began="$began$m "; done <"$dir/began"
	fi
	if [ -e "$dir/not" ]; then
		while read -r m; do not="$not$m "; done <"$dir/not"
	fi
	for t in $targets; do
		if [ -e "$dir/state" ]; then
			case $began in *" ${t#*:} "*) ;; *) continue ;; esac
			case $not in *" ${t#*:} "*) continue ;; esac
		fi
		fsfreeze -u "$(plain "${t#*:}")" >/dev/null 2>&1 9>&- &
		pids="$pids $!"
	done
	wait $pids
}

# run_hooks runs the programs of a folder one after the other, and tells whether
# all were content. Names are those that run-parts takes.
run_hooks() {
	set +f
	for h in "$hooks/$1.d"/*; do
		set -f
		case ${h##*/} in *[!A-Za-z0-9._-]*) continue ;; esac
		[ -f "$h" ] && [ -x "$h" ] || continue
		"$h" </dev/null >/dev/null 2>&1 9>&- &
		child=$!
		wait $child
		rc=$?
		child=
		say "hook $1 $rc ${h##*/}"
		[ $rc -eq 0 ] || [ "$1" = thaw ] || return
	done
}

# end_group ends what setsid has started, or has yet to.
end_group() { kill -9 "-$1" 2>/dev/null || kill -9 "$1" 2>/dev/null; }

# finish is what comes after the thaw, once.
finish() {
	mkdir "$dir/finished" 2>/dev/null || return
	if [ -e "$dir/hooked" ]; then run_hooks thaw; fi
	if [ -e "$dir/guards" ]; then
		while read -r g; do [ "$g" = $$ ] || end_group "$g"; done <"$dir/guards"
	fi
	say thawed
}

case $role in
end)
	trap '' TERM INT HUP
	while read -r m; do :; done
	thaw
	finish
	exit
	;;
over)
	sleep "$limit"
	trap '' TERM INT HUP
	: >"$dir/over"
	say over
	kill "$first" 2>/dev/null
	thaw
	sleep 1
	finish
	exit
	;;
last)
	sleep $((limit + 5))
	if [ ! -e "$dir/finished" ] && [ -e "$dir/state" ]; then echo j >/proc/sysrq-trigger; fi
	exit
	;;
slow)
	sleep "$patience"
	if [ -e "$dir/hooking" ]; then
		say "failed slow"
		kill "$first" 2>/dev/null
	fi
	exit
	;;
esac

fail() {
	say "failed $*"
	exit 1
}
# goes_on ends it all when it is over, or when our folder is gone.
goes_on() { if [ -e "$dir/over" ] || [ ! -e "$dir/state" ]; then exit 1; fi; }
stop() {
	trap '' TERM INT HUP EXIT
	exec 9>&-
	thaw
	[ -z "$long" ] || kill "$long" 2>/dev/null
	exit
}

say "lifeboat-freeze 1"
say "pid $$"
child= long=
[ "$(id -u)" = 0 ] || fail root
case $(stat -f -c %T "$dir") in tmpfs | ramfs) ;; *) fail memory ;; esac
for t in fsfreeze mkfifo setsid sleep; do
	command -v $t >/dev/null || fail "program $t"
done
fsfreeze --version >/dev/null 2>&1 # so that it is in memory

# What is mounted last is frozen first, as it may lie in a file of what was
# mounted before; loop devices surely do.
seen=' ' loops= rest= inside=
while read -r id parent dev root mount opts more; do
	more=" $more"
	more=${more#* - }
	type=${more%% *}
	case ,${more##* }, in *,ro,*) continue ;; esac
	case $dev/$type in 0:*/btrfs | 0:*/zfs | 0:*/bcachefs) ;; 0:*) continue ;; esac
	case $seen in *" $dev "*) continue ;; esac
	if [ ! -d "$(plain "$mount")" ]; then # one file of it
		inside="$inside $dev:$type:$mount"
		continue
	fi
	seen="$seen$dev "
	case $dev in 7:*) loops="$type:$mount $loops" ;; *) rest="$type:$mount $rest" ;; esac
done <"$mounts"
for t in $inside; do
	dev=${t%:*:*}
	t=${t#"$dev":}
	case $seen in *" $dev "*) ;; *) say "synced ${t%%:*} ${t#*:}" ;; esac
done

mkfifo "$dir/end" || fail pipe
targets="$loops $rest"
setsid /bin/sh "$0" end $$ $targets <"$dir/end" >/dev/null 2>&1 &
exec 9>"$dir/end"
trap stop EXIT
trap 'say asked; [ -z "$child" ] || kill "$child" 2>/dev/null; stop' TERM INT HUP

if [ -n "$hooks" ]; then
	: >"$dir/hooked"
	: >"$dir/hooking"
	setsid /bin/sh "$0" slow $$ 9>&- &
	slow=$!
	echo $slow >"$dir/guards"
	run_hooks freeze
	rm -f "$dir/hooking"
	end_group $slow
	: >"$dir/guards"
fi
for t in $targets; do # so that the freeze itself is short
	sync -f "$(plain "${t#*:}")" 2>/dev/null 9>&-
done

say holding
setsid /bin/sh "$0" over $$ $targets 9>&- &
guards=$!
setsid /bin/sh "$0" last $$ 9>&- &
printf '%s\n' "$guards" $! >"$dir/guards"
sleep $((limit + 2)) 9>&- &
long=$!

for t in $targets; do
	goes_on
	type=${t%%:*} m=${t#*:}
	printf '%s\n' "$m" >>"$dir/began"
	fsfreeze -f "$(plain "$m")" 2>"$dir/said" & # it holds the pipe: see end
	child=$!
	wait $child
	rc=$?
	child=
	if [ $rc -eq 0 ]; then
		say "froze $type $m"
		continue
	fi
	why=
	read -r why <"$dir/said"
	printf '%s\n' "$m" >>"$dir/not"
	case $why in
	*"not supported"*)
		sync -f "$(plain "$m")" 2>/dev/null 9>&-
		say "synced $type $m"
		;;
	*busy*) fail "busy $m" ;;
	*) fail "freeze $m" ;;
	esac
done
goes_on
say frozen
wait $long
exit 1
