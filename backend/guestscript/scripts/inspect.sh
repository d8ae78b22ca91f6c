#!/bin/sh
# Tells in one line of JSON what keeps one from getting into this machine after
# a failover. It only reads. What it can't tell it leaves out, and says why.
#
# LIFEBOAT_ROOT is the root of the system that is looked at; empty: this one.
# With a root given, programs are taken from PATH as it is, for tests.
LC_ALL=C
export LC_ALL
R=${LIFEBOAT_ROOT-}
[ -n "$R" ] || PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin
umask 077
unknown=
nl='
'

# clean is printable text without what JSON would need escaped, 90 bytes of it.
clean() { printf '%s' "$1" | tr '\t\n\r' '   ' | tr '"\\' "'/" | tr -cd ' -~' | cut -c1-90; }

# fact prints an answer as JSON.
fact() { printf '{"answer":"%s","detail":"%s"}' "$1" "$(clean "$2")"; }

cannot() { unknown="$unknown${unknown:+$nl}$1"; }

have() { command -v "$1" >/dev/null 2>&1; }

release() {
	for f in "$R/etc/os-release" "$R/usr/lib/os-release"; do
		[ -r "$f" ] || continue
		sed -n 's/^PRETTY_NAME=//p' "$f" | head -n 1 | tr -d "\"'"
		return
	done
	[ -r "$R/etc/redhat-release" ] && head -n 1 "$R/etc/redhat-release"
}

# The port that sshd is told to listen on; 22 if it is told none.
sshPort() {
	for f in "$R"/etc/ssh/sshd_config.d/*.conf "$R/etc/ssh/sshd_config"; do
		[ -r "$f" ] || continue
		awk 'tolower($1) == "match" { exit } tolower($1) == "port" { print $2; exit }' "$f" 2>/dev/null
	done | grep -E '^[0-9]+$' | head -n 1
}

# unitState is how systemd says that a unit begins: enabled, disabled, masked...
# Without systemctl the links in /etc are read, as it would.
unitState() {
	if have systemctl; then
		s=$(systemctl is-enabled "$1" 2>/dev/null | head -n 1)
		case $s in '' | *not-found* | offline | unknown) ;; *) echo "$s" && return ;; esac
		[ -n "$R" ] || { [ -n "$s" ] && return; }
	fi
	l=$(readlink "$R/etc/systemd/system/$1" 2>/dev/null)
	case $l in /dev/null) echo masked && return ;; esac
	for f in "$R"/etc/systemd/system/*.wants/"$1" "$R"/etc/systemd/system/*.requires/"$1"; do
		if [ -h "$f" ] || [ -e "$f" ]; then echo enabled && return; fi
	done
	for d in "$R/etc/systemd/system" "$R/usr/lib/systemd/system" "$R/lib/systemd/system"; do
		[ -e "$d/$1" ] && echo disabled && return
	done
}

remoteAccess() {
	answer= why=
	if [ -e "$R/etc/ssh/sshd_not_to_be_run" ]; then
		fact no "/etc/ssh/sshd_not_to_be_run forbids sshd"
		return
	fi
	service= socket= seen=
	for u in ssh.service sshd.service; do
		s=$(unitState $u)
		[ -n "$s" ] && seen="$seen $u is $s,"
		case $s in
		enabled | static | generated) service=$u ;;
		masked*) masked=$u ;;
		esac
	done
	for u in ssh.socket sshd.socket; do
		s=$(unitState $u)
		[ -n "$s" ] && seen="$seen $u is $s,"
		[ "$s" = enabled ] && socket=$u
	done
	seen=${seen# }
	seen=${seen%,}
	if [ -n "$service" ]; then
		answer=yes
	elif [ -n "$socket" ] && [ -n "$masked" ]; then
		cannot "remoteAccess: $socket is enabled and $masked is masked: whether it starts depends on the socket"
		return
	elif [ -n "$socket" ]; then
		answer=yes
	elif [ -n "$seen" ]; then
		answer=no
	fi
	why=$seen
	if [ -z "$answer" ] && [ -e "$R/etc/runlevels/default/sshd" ]; then
		answer=yes why="OpenRC starts sshd in runlevel default"
	fi
	if [ "$answer" != yes ] && [ -z "$seen" ]; then
		for f in "$R"/etc/rc[2345].d/S*ssh "$R"/etc/rc[2345].d/S*sshd "$R"/etc/rc.d/rc[35].d/S*sshd; do
			if [ -h "$f" ] || [ -e "$f" ]; then answer=yes why="${f#"$R"} starts it" && break; fi
		done
	fi
	if [ -z "$answer" ]; then
		for f in "$R/usr/sbin/sshd" "$R/usr/local/sbin/sshd" "$R/usr/sbin/dropbear"; do
			[ -e "$f" ] && cannot "remoteAccess: ${f#"$R"} is there, and nothing was found that starts it" && return
		done
		fact no "no sshd is installed"
		return
	fi
	fact "$answer" "$why, port $port"
}

# What a packet filter's rules say of the port: yes, no, or nothing if it takes
# more than this to tell. Rules are read in their order; the first one that fits
# every new connection decides.
judgeIptables() {
	sed 's/--comment "[^"]*"//; s/--comment [^ ]*//' | awk -v port="$port" '
	$1 == "-P" { policy = $3 }
	$1 != "-A" { next }
	{
		target = ""; narrow = 0; hit = 1
		for (i = 3; i <= NF; i++) {
			if ($i == "-j" || $i == "-g") { target = $(++i); if (target == "REJECT" || target == "LOG" || target == "NFLOG") i = NF; continue }
			if ($i == "!") { narrow = 1; continue }
			if ($i == "-p") { p = $(++i); if (p != "tcp" && p != "all" && p != "6") hit = 0; continue }
			if ($i == "-m") { i++; continue }
			if ($i == "--dport" || $i == "--dports") {
				n = split($(++i), list, ","); fits = 0
				for (j = 1; j <= n; j++) {
					split(list[j], r, ":")
					if (list[j] !~ /:/) r[2] = r[1]
					if (r[1] + 0 <= port + 0 && port + 0 <= r[2] + 0) fits = 1
				}
				if (!fits) hit = 0
				continue
			}
			if ($i == "--ctstate" || $i == "--state") { if ($(++i) !~ /NEW/) hit = 0; continue }
			if ($i == "-i" && $(i+1) == "lo") { hit = 0; i++; continue }
			if ($i == "-i" || $i == "-s" || $i == "-d" || $i ~ /^-/) { narrow = 1; continue }
		}
		if (!hit || decided != "" || target == "LOG" || target == "NFLOG" || target == "" ) next
		if (target == "ACCEPT") decided = narrow ? "" : "yes"
		else if (target == "DROP" || target == "REJECT") decided = narrow ? "?" : "no"
		else decided = "?"
		if (decided == "" && narrow) partly = 1
	}
	END {
		if (decided == "") decided = policy == "ACCEPT" ? "yes" : policy == "" ? "?" : "no"
		if (decided == "no" && partly) decided = "?"
		print decided
	}'
}

judgeNft() {
	awk -v port="$port" '
	function close_chain() {
		if (!hook) return
		if (v == "") v = policy == "drop" ? "no" : "yes"
		if (v == "no" && partly) v = "?"
		if (v == "no" || v == "?" && worst != "no" || worst == "") worst = v
		hook = 0
	}
	$1 == "table" { skip = ($2 == "arp" || $2 == "bridge" || $2 == "ip6") }
	$1 == "chain" { close_chain(); hook = 0; v = ""; partly = 0; policy = "accept"; next }
	/type filter hook input/ || /type filter hook prerouting/ { hook = !skip; if ($0 ~ /policy drop/) policy = "drop"; next }
	!hook || v != "" { next }
	$1 == "}" { close_chain(); next }
	{
		line = $0; gsub(/counter packets [0-9]+ bytes [0-9]+/, "", line); gsub(/comment "[^"]*"/, "", line); gsub(/# handle.*/, "", line)
		named = line ~ /dport/; hit = !named; rest = line
		if (line ~ /tcp dport \{/) {
			set = line; sub(/.*tcp dport \{/, "", set); sub(/\}.*/, "", set); n = split(set, e, ",")
			for (i = 1; i <= n; i++) { gsub(/ /, "", e[i]); if (e[i] == "ssh") e[i] = 22; m = split(e[i], r, "-"); if (r[1] + 0 <= port + 0 && port + 0 <= (m > 1 ? r[2] : r[1]) + 0) hit = 1 }
			sub(/tcp dport \{[^}]*\}/, "", rest)
		} else if (match(line, /tcp dport [^ ]+/)) {
			x = substr(line, RSTART + 10, RLENGTH - 10); if (x == "ssh") x = 22
			if (x !~ /^[0-9]+(-[0-9]+)?$/) { v = "?"; next }
			m = split(x, r, "-"); if (r[1] + 0 <= port + 0 && port + 0 <= (m > 1 ? r[2] : r[1]) + 0) hit = 1
			sub(/tcp dport [^ ]+/, "", rest)
		}
		if (!hit || line ~ /iif(name)? "?lo"? /) next
		if (rest ~ /ct state/) { if (rest !~ /new/) { if (rest ~ /vmap/ && rest ~ /new/) v = "?"; next } gsub(/ct state (\{[^}]*\}|[^ ]+)/, "", rest) }
		if (rest ~ /icmp|udp|igmp/) next
		gsub(/meta l4proto tcp|ip protocol tcp|limit rate[^a-z]*[a-z\/]* (burst [0-9]+ [a-z]+)?|log( prefix "[^"]*")?|counter|reject with.*/, " ", rest)
		verdict = ""
		if (line ~ /(^|[ \t])accept([ \t]|$)/) verdict = "yes"
		else if (line ~ /(^|[ \t])(drop|reject)([ \t]|$)/) verdict = "no"
		else if (line ~ /jump|goto|vmap|queue/) { v = "?"; next }
		if (verdict == "") next
		gsub(/accept|drop|reject/, "", rest); gsub(/[ \t]/, "", rest)
		if (rest == "") v = verdict
		else if (verdict == "yes") partly = 1
		else v = "?"
	}
	END { close_chain(); print worst == "" ? "yes" : worst }'
}

firewall() {
	if have firewall-cmd && [ "$(firewall-cmd --state 2>/dev/null)" = running ]; then
		z=$(firewall-cmd --get-default-zone 2>/dev/null)
		if [ -z "$z" ]; then
			cannot "firewall: firewalld runs, and doesn't tell its default zone"
		elif [ "$port" = 22 ] && firewall-cmd --permanent --zone="$z" --query-service=ssh >/dev/null 2>&1 ||
			firewall-cmd --permanent --zone="$z" --query-port="$port/tcp" >/dev/null 2>&1; then
			fact yes "firewalld's default zone $z allows port $port"
		elif [ "$(firewall-cmd --permanent --zone="$z" --get-target 2>/dev/null)" = ACCEPT ]; then
			fact yes "firewalld's default zone $z accepts everything"
		elif t=$(firewall-cmd --permanent --zone="$z" --list-rich-rules 2>/dev/null) && [ -z "$t" ]; then
			fact no "firewalld's default zone $z doesn't allow port $port"
		else
			cannot "firewall: firewalld's zone $z has rich rules, which only a person can judge"
		fi
		return
	fi
	if have ufw; then
		s=$(ufw status verbose 2>/dev/null)
		case $s in
		*"Status: active"*)
			v=$(printf '%s\n' "$s" | awk -v port="$port" '
				/^Default:/ { open = $2 == "allow" }
				/\(v6\)/ || v != "" { next }
				$1 == port || $1 == port "/tcp" || $1 == "OpenSSH" && port == 22 || $1 == "Anywhere" || $1 == "SSH" && port == 22 {
					from = $0; wide = from ~ /(ALLOW|LIMIT|DENY|REJECT) IN +Anywhere *(#.*)?$/
					if ($2 == "on") wide = 0
					if ($0 ~ /ALLOW|LIMIT/) { if (wide) v = "yes"; else partly = 1 }
					else v = wide ? "no" : "?"
				}
				END { if (v == "") v = open ? "yes" : partly ? "?" : "no"; print v }')
			case $v in
			yes) fact yes "ufw allows port $port" ;;
			no) fact no "ufw doesn't allow port $port" ;;
			*) cannot "firewall: ufw lets only some reach port $port" ;;
			esac
			return
			;;
		esac
	fi
	looked= verdict=yes
	if have nft; then
		if rules=$(nft list ruleset 2>/dev/null); then
			looked=nftables
			v=$(printf '%s\n' "$rules" | judgeNft)
			[ "$v" = yes ] || verdict=$v
		else
			cannot "firewall: nft doesn't tell its rules (only root may ask)" && return
		fi
	fi
	if [ "$verdict" != no ]; then
		for t in iptables iptables-legacy; do
			have $t || continue
			if rules=$($t -S INPUT 2>/dev/null); then
				looked="$looked${looked:+, }$t"
				v=$(printf '%s\n' "$rules" | judgeIptables)
				case $v in
				no) verdict=no ;;
				yes) ;;
				*) verdict='?' ;;
				esac
			elif [ -z "$looked" ]; then
				cannot "firewall: $t doesn't tell its rules (only root may ask)" && return
			fi
		done
	fi
	if [ -z "$looked" ]; then
		m=$R/proc/modules b=$R/lib/modules/$(uname -r)/modules.builtin
		if [ -r "$m" ] && [ -r "$b" ] && ! grep -qE '^(nf_tables|ip_tables) ' "$m" && ! grep -qE '/(nf_tables|ip_tables)\.ko' "$b"; then
			fact yes "the kernel has no packet filter loaded"
		else
			cannot "firewall: no nft, iptables, ufw or firewall-cmd to ask"
		fi
		return
	fi
	case $verdict in
	yes) fact yes "$looked: nothing keeps port $port out" ;;
	no) fact no "$looked: port $port is kept out" ;;
	*) cannot "firewall: the rules of $looked are more than can be judged here: see whether they let port $port in" ;;
	esac
}

updates() {
	if [ -e "$R/run/reboot-required" ] || [ -e "$R/var/run/reboot-required" ]; then
		fact yes "/run/reboot-required is there"
	elif have needs-restarting; then
		needs-restarting -r >/dev/null 2>&1
		case $? in
		0) fact no "needs-restarting -r" ;;
		1) fact yes "needs-restarting -r asks for a restart" ;;
		*) cannot "updatesPending: needs-restarting failed" ;;
		esac
	elif have dpkg && [ -n "$(dpkg --audit 2>/dev/null | head -n 1)" ]; then
		fact yes "dpkg --audit: packages are half installed"
	elif [ -e "$R/usr/share/update-notifier/notify-reboot-required" ] || [ -e "$R/etc/kernel/postinst.d/unattended-upgrades" ]; then
		fact no "no /run/reboot-required"
	else
		cannot "updatesPending: nothing on this system keeps account of it"
	fi
}

drivers() {
	k=$(uname -r)
	builtin=$R/lib/modules/$k/modules.builtin
	list=
	for f in "$R/boot/initrd.img-$k" "$R/boot/initramfs-$k.img" "$R/boot/initrd-$k"; do
		[ -e "$f" ] || continue
		if have lsinitramfs; then list=$(lsinitramfs "$f" 2>/dev/null); fi
		if [ -z "$list" ] && have lsinitrd; then list=$(lsinitrd "$f" 2>/dev/null); fi
		break
	done
	sep=
	for d in hv_vmbus hv_storvsc hv_netvsc ata_piix ata_generic; do
		a=
		if grep -qE "/$d\.ko" "$builtin" 2>/dev/null; then
			a=yes w="in kernel $k"
		elif printf '%s\n' "$list" | grep -qE "/$d\.ko"; then
			a=yes w="in ${f#"$R"}"
		elif [ -n "$list" ] && [ -r "$builtin" ]; then
			a=no w="not in ${f#"$R"}"
		fi
		[ -n "$a" ] || continue
		printf '%s"%s":%s' "$sep" "$d" "$(fact $a "$w")"
		sep=,
	done
}

# The network of the card that the default route takes.
dhcp() {
	have ip || { cannot "dhcp: there is no program ip" && return; }
	card=$(ip -4 route show default 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
	[ -n "$card" ] || { cannot "dhcp: there is no default route" && return; }
	if ip -4 route show default 2>/dev/null | grep -q 'proto dhcp'; then
		fact yes "$card: its route is of DHCP"
		return
	fi
	a=$(ip -4 addr show dev "$card" scope global 2>/dev/null)
	case $a in
	*dynamic*) fact yes "$card: its address is leased" && return ;;
	*inet*) ;;
	*) cannot "dhcp: $card has no address" && return ;;
	esac
	if cat "$R"/proc/[0-9]*/comm 2>/dev/null | grep -qxE 'dhclient|dhcpcd|udhcpc'; then
		cannot "dhcp: a DHCP client runs, and $card has an address without a lease" && return
	fi
	fact no "$card: its address is set by hand"
}

mounts() {
	t=$R/etc/fstab
	[ -r "$t" ] || { cannot "stableMounts: /etc/fstab can't be read" && return; }
	bad=$(awk '$1 !~ /^#/ && NF >= 4 && $4 !~ /(^|,)noauto(,|$)/ && $1 ~ /^\/dev\/((sd|hd|vd|xvd)[a-z]|nvme[0-9]|disk\/by-(path|id)\/)/ { print $1 " on " $2; exit }' "$t")
	if [ -z "$bad" ]; then
		bad=$(tr ' ' '\n' <"$R/proc/cmdline" 2>/dev/null | grep -E '^root=/dev/((sd|hd|vd|xvd)[a-z]|nvme[0-9])' | head -n 1)
		[ -n "$bad" ] && bad="the kernel's command line has $bad"
	fi
	if [ -n "$bad" ]; then fact no "$bad"; else fact yes "/etc/fstab names no disk by its place"; fi
}

agents() {
	sep=
	tell() {
		printf '%s"%s":%s' "$sep" "$1" "$(fact "$2" "$3")"
		sep=,
	}
	v=
	for f in "$R/usr/local/.vx_version" "$R/usr/local/ASR/.vx_version"; do
		[ -r "$f" ] && v=$(sed -n 's/^VERSION=//p' "$f" | head -n 1) && break
	done
	if [ -n "$v" ]; then tell mobility yes "$v"; elif [ -d "$R/usr/local/ASR" ]; then :; else tell mobility no ""; fi
	if have vmware-toolbox-cmd; then
		tell vmware-tools yes "$(vmware-toolbox-cmd -v 2>/dev/null | head -n 1)"
	elif [ -e "$R/usr/bin/vmtoolsd" ]; then tell vmware-tools yes ""; else tell vmware-tools no ""; fi
	if have waagent; then
		tell azure-guest-agent yes "$(waagent --version 2>/dev/null | sed -n '1s/ running on.*//p')"
	elif [ -e "$R/usr/sbin/waagent" ] || [ -e "$R/usr/bin/waagent" ]; then tell azure-guest-agent yes ""; else tell azure-guest-agent no ""; fi
	h=no
	for f in "$R"/usr/sbin/hv_kvp_daemon "$R"/usr/sbin/hypervkvpd "$R"/usr/lib/linux-tools/*/hv_kvp_daemon; do
		[ -e "$f" ] && h=yes && break
	done
	tell hyper-v-integration $h ""
}

# ask runs a function in a subshell of its own: got is the fact that it prints,
# nothing if it can't tell; the lines that say why are added to all.
ask() {
	out=$(
		"$1"
		printf '\n'
		[ -n "$unknown" ] && printf '%s\n' "$unknown" | sed 's/^/?/'
	)
	got=$(printf '%s\n' "$out" | grep -v '^?' | head -n 1)
	more=$(printf '%s\n' "$out" | sed -n 's/^?//p')
	[ -z "$more" ] || all="$all${all:+$nl}$more"
	[ -n "$got" ]
}

masked=
all=
port=$(sshPort)
port=${port:-22}
line="{\"lifeboat\":1,\"os\":\"linux\",\"release\":\"$(clean "$(release)")\""
ask remoteAccess && line="$line,\"remoteAccess\":$got"
ask firewall && line="$line,\"firewall\":{\"input\":$got}"
ask updates && line="$line,\"updatesPending\":$got"
if ask drivers; then line="$line,\"bootDrivers\":{$got}"; else all="$all${all:+$nl}bootDrivers: neither lsinitramfs nor lsinitrd tells what is in the initramfs"; fi
ask dhcp && line="$line,\"dhcp\":$got"
ask mounts && line="$line,\"stableMounts\":$got"
ask agents && line="$line,\"agents\":{$got}"
list=$(printf '%s\n' "$all" | {
	sep=
	while IFS= read -r l; do
		[ -n "$l" ] && printf '%s"%s"' "$sep" "$(clean "$l")" && sep=,
	done
})
printf '%s,"unknown":[%s]}\n' "$line" "$list"
