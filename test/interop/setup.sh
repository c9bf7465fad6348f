#!/bin/sh
# usage: setup.sh
#
# Unpacks, into .build/interop, what the tests beside this file speak with: a
# curl that knows CONNECT-UDP, and aioquic. Of Debian's suites only the newest
# has such a curl, so that nothing of it is installed. It comes from where apt
# has Debian from.
set -eu
cd "$(dirname "$0")/../.."

folder=.build/interop
[ ! -e "$folder" ] || exit 0

say() { echo "setup: $*" >&2; }

mirror=$(apt-get indextargets --format '$(REPO_URI) $(LABEL)' 'Created-By: Packages' 2>/dev/null | sed -n 's/ Debian$//p' | head -n 1)
if [ -z "$mirror" ] || ! command -v mmdebstrap >/dev/null; then
	say "not to be had here, so that tests with other implementations of CONNECT-UDP cannot run: curl and aioquic of Debian"
	[ "${CI-}" != true ]
	exit
fi

as_root=
[ "$(id -u)" = 0 ] || as_root=sudo

say "unpacking curl and python3-aioquic of Debian into $folder"
mkdir -p .build
part=$(mktemp -d .build/interop.XXXXXX)
trap '$as_root rm -rf "$part"' EXIT
trap 'exit 1' HUP INT TERM

# A suite that moves on daily lets its lists expire, which is no matter here.
$as_root mmdebstrap --quiet --aptopt='Acquire::Check-Valid-Until "false"' \
	--variant=extract --include=curl,python3-aioquic sid "$part/root" "$mirror"
$as_root chown -R "$(id -u):$(id -g)" "$part"
mv "$part/root" "$folder"
