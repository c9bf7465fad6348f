#!/bin/sh
# dpkg: remove, purge, upgrade, …; rpm: 0 for a removal, 1 for an upgrade.
set -e

case ${1-} in
remove | purge | 0)
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload || :
	fi
	rm -rf /run/bpfacq
	;;
esac

# rpm knows no purge: there the state stays.
if [ "${1-}" = purge ]; then
	rm -rf /var/lib/bpfacq /etc/bpfacq
	# The user owns no file, so that its number may go to another one.
	if getent passwd bpfacq-edge >/dev/null && command -v userdel >/dev/null; then
		userdel bpfacq-edge
	fi
fi
