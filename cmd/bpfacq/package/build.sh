#!/bin/sh
# usage: build.sh FOLDER
#
# Builds the .deb and .rpm of amd64 and arm64 in FOLDER. The same commit, Go and gzip
# make the same bytes, wherever and whenever.
#
# Version and time are those of the commit, as Go stamps them into the binary;
# VERSION and SOURCE_DATE_EPOCH in the environment say others for the package.
set -eu
cd "$(dirname "$0")/../../.."

out=${1:?usage: build.sh FOLDER}
mkdir -p "$out"
out=$(cd "$out" && pwd)
STAGE=$(mktemp -d)
trap 'rm -rf "$STAGE"' EXIT
export STAGE LC_ALL=C
umask 022

for arch in amd64 arm64; do
	env GOFLAGS= GOEXPERIMENT= CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOAMD64=v1 GOARM64=v8.0 \
		go build -trimpath -buildvcs=auto -ldflags='-s -w -buildid=' -o "$STAGE/$arch/bpfacq" ./cmd/bpfacq
done
bpfacq=$STAGE/$(go env GOHOSTARCH)/bpfacq
stamps=$(go version -m "$bpfacq")

# v0.1.1-0.20261122155500-f41fcf9, as Go calls a commit after v0.1.0, becomes
# 0.1.1~0.20261122155500.f41fcf9: to dpkg and rpm, too, that is before 0.1.1.
VERSION=${VERSION:-$(echo "$stamps" | awk '$1 == "mod" { print $3 }' | sed -n '/^v[0-9]/ { s/^v//; s/-/~/; s/-/./g; p; }')}
committed=$(echo "$stamps" | sed -n 's/.*vcs\.time=//p')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-${committed:+$(date --date="$committed" +%s)}}
if [ -z "$VERSION" ] || [ -z "$SOURCE_DATE_EPOCH" ]; then
	echo 'build.sh: this is no git clone: set VERSION and SOURCE_DATE_EPOCH' >&2
	exit 1
fi
export VERSION SOURCE_DATE_EPOCH

mkdir "$STAGE/completion" "$STAGE/doc"
for shell in bash zsh fish; do
	"$bpfacq" completion $shell >"$STAGE/completion/$shell"
done
cp -R cmd/bpfacq/man "$STAGE/man"
cp CHANGELOG.md "$STAGE/doc/"
{
	printf '\n==== Go %s\n\n' "$(go env GOVERSION)"
	cat "$(go env GOROOT)/LICENSE"
} >"$STAGE/doc/third-party"
go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/bpfacq |
	sort -u | while read -r path version folder; do
	printf '\n==== %s %s\n\n' "$path" "$version"
	find "$folder" -maxdepth 1 -type f \( -name 'LICENSE*' -o -name 'NOTICE*' \) | sort | xargs -r cat
done >>"$STAGE/doc/third-party"
gzip -9n "$STAGE"/man/* "$STAGE"/doc/*

# One process each: most of the time goes into xz.
printf '%s\n' 'amd64 deb' 'amd64 rpm' 'arm64 deb' 'arm64 rpm' |
	OUT=$out xargs -P "$(nproc)" -L 1 sh -c 'ARCH=$0 exec go tool -modfile=cmd/bpfacq/package/nfpm.mod nfpm package \
		--config cmd/bpfacq/package/nfpm.yaml --packager "$1" --target "$OUT" >/dev/null'
