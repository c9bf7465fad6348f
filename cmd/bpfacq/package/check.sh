#!/bin/sh
# Builds the packages twice, in another folder, at another time and with another
# umask, and compares them byte by byte; and compares what is in them with deb.list
# and rpm.list, which UPDATE=1 rewrites.
set -eu
cd "$(dirname "$0")/../../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/one" "$work/two"
tar --exclude=./.build -cf - . | tar -xf - -C "$work/one"
tar -cf - -C "$work/one" . | tar -xmf - -C "$work/two"
chmod -R g-w,o-rx "$work/two"
"$work/one/cmd/bpfacq/package/build.sh" "$work/here"
(umask 077 && TZ=Asia/Kathmandu "$work/two/cmd/bpfacq/package/build.sh" "$work/there")
diff -r "$work/here" "$work/there" || {
	echo 'check-packages: the same commit makes other bytes in another place' >&2
	exit 1
}

# Each line is mode, owner and path; then what is a configuration file.
for deb in "$work"/here/*.deb; do
	dpkg-deb --contents "$deb" | awk '!/\/$/ { print $1, $2, substr($6, 2) }' >"$deb.list"
	dpkg-deb --info "$deb" conffiles | sed 's/^/config /' >>"$deb.list"
done
for rpm in "$work"/here/*.rpm; do
	rpm --query --package --queryformat '[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]' "$rpm" >"$rpm.list"
	rpm --query --package --configfiles "$rpm" | sed 's/^/config /' >>"$rpm.list"
done
status=0
for list in "$work"/here/*.list; do
	kept=${list%.list} kept=cmd/bpfacq/package/${kept##*.}.list
	[ -z "${UPDATE-}" ] || cp "$list" "$kept"
	diff -u "$kept" "$list" || status=1
done
[ $status = 0 ] || echo 'check-packages: UPDATE=1 accepts what is in the packages now' >&2
exit $status
