#!/bin/sh
# usage: setup.sh demo|test|vm|packages
#
# Installs what that make target needs and the machine lacks, saying so. Only
# apt-get is known here; elsewhere it names what is missing and stops.
set -eu
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# needs lists commands or files, and the packages that bring them. The packages
# marked optional are not in every distribution; see with-clang.sh.
needs() {
	case $1 in
	demo | test) cat <<-'END' ;;
		ip iproute2
		nft nftables
		curl curl
	END
	vm) cat <<-'END' ;;
		qemu-system-x86_64 qemu-system-x86
		/usr/share/qemu/qboot.rom qemu-system-data
		mmdebstrap mmdebstrap
		mke2fs e2fsprogs
		git git
		lz4 lz4
		xz xz-utils
		zstd zstd
	END
	packages) cat <<-'END' ;;
		dpkg-deb dpkg
		git git
		rpm rpm
	END
	esac
	[ "$1" != test ] || cat <<-'END'
		clang-19 clang-19 optional
		clang-format-19 clang-format-19 optional
		llvm-strip-19 llvm-19 optional
		/usr/include/bpf/bpf_helpers.h libbpf-dev optional
		/usr/include/linux/bpf.h linux-libc-dev
		/usr/include/stdlib.h libc6-dev
		gcc gcc
		python3 python3
		ssh openssh-client
		dropbear dropbear-bin
		squid squid
		haproxy haproxy
		nghttpx nghttp2-proxy
		redsocks redsocks
		dnsmasq dnsmasq-base
		unbound unbound
		dig bind9-dnsutils
		dnssec-signzone bind9-utils
		dnsperf dnsperf
		mmdebstrap mmdebstrap optional
		musl-gcc musl-tools
		node nodejs
	END
}

there() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

# missing lists the packages still to be had, of one kind or of both.
missing() {
	needs "$1" | while read -r thing package kind; do
		case ${2-} in
		"" | "${kind:-required}") there "$thing" || echo "$package" ;;
		esac
	done | xargs
}

say() { echo "setup: $*" >&2; }

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif there sudo; then
		sudo "$@"
	else
		say "needs root or sudo to install these packages: $(missing "$target")"
		exit 1
	fi
}

# Debian starts the services of what it installs. They would take ports, and the
# tests start their own: SYSTEMD_OFFLINE keeps systemctl from starting any, and
# RUNLEVEL does so for init scripts.
apt_get() {
	as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l \
		SYSTEMD_OFFLINE=1 RUNLEVEL=1 \
		apt-get -qq --option=DPkg::Lock::Timeout=300 --option=Dpkg::Use-Pty=0 "$@"
}

# known drops the packages that apt has never heard of.
known() {
	for package in "$@"; do
		if apt-cache show "$package" >/dev/null 2>&1; then
			printf '%s ' "$package"
		fi
	done
}

lists_are_fresh() {
	[ -n "$(find /var/lib/apt/lists/partial -prune -mtime -1 2>/dev/null)" ]
}

install() {
	# shellcheck disable=SC2046,SC2086 # lists of words
	set -- $(known $packages)
	[ $# != 0 ] || return 0
	say "installing with apt-get: $*"
	apt_get install --yes --no-install-recommends "$@"
}

# disable undoes for the next boot what the packages arranged for it.
disable() {
	for package in $packages; do
		dpkg --listfiles "$package" 2>/dev/null || :
	done | sed -n -e 's|.*/systemd/system/\([^/@]*\.service\)$|\1|p' -e 's|^/etc/init\.d/\(.*\)$|\1|p' |
		while read -r service; do
			case $service in
			*.service) ! there systemctl || as_root systemctl --quiet disable "$service" || : ;;
			*) ! there update-rc.d || as_root update-rc.d "$service" disable >/dev/null 2>&1 || : ;;
			esac
		done
}

target=${1-}
case $target in
demo | test | vm | packages) ;;
*)
	say "usage: setup.sh demo|test|vm|packages"
	exit 2
	;;
esac

# unpack brings what comes from no package of this distribution.
unpack() { [ "$target" != test ] || "$(dirname "$0")/interop/setup.sh"; }

packages=$(missing "$target")
if [ -z "$packages" ]; then
	unpack
	exit
fi

if there apt-get; then
	# The lists may be stale or not there at all. Where one of today lacks a
	# package, the distribution does.
	# shellcheck disable=SC2086 # a list of words
	if [ "$(known $packages)" != "$packages " ] && ! lists_are_fresh || ! install; then
		apt_get update
		install
	fi
	disable
fi

required=$(missing "$target" required)
optional=$(missing "$target" optional)
[ -z "$optional" ] || say "not to be had here, so that some checks cannot run: $optional"
[ -z "$required" ] || say "please install, by these or similar names: $required"
unpack
[ -z "$required" ] && { [ -z "$optional" ] || [ "${CI-}" != true ]; }
