#!/bin/sh
# Rebuilds what is generated in bpf/ and says how it differs from what was there.
# It compares with the files and not with the last commit, so that it tells the
# truth in a tree with changes, too.
set -eu
cd "$(dirname "$0")/.."

before=$(sha256sum bpf/*)
make generate
after=$(sha256sum bpf/*)
if [ "$before" != "$after" ]; then
	echo 'check-generate: these were not what their sources make, and are now:' >&2
	printf '%s\n%s\n' "$before" "$after" | sort | uniq -u | awk '{ print "  " $2 }' | uniq >&2
	exit 1
fi
