#!/bin/sh
# dpkg: configure [OLD VERSION], abort-…; rpm: 1 for an installation, 2 for an upgrade.
# Nothing is enabled and nothing is started, but what runs is started anew.
set -e

case ${1-} in
configure | 1 | 2) ;;
*) exit 0 ;;
esac

if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers bpfacq.conf
fi
if command -v systemd-tmpfiles >/dev/null; then
	systemd-tmpfiles --create bpfacq.conf
fi
# Not in a container or chroot without systemd as process 1.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
	# Who looks after devices is told which to leave alone before there are any. Of itself
	# udevd looks for new rules every few seconds only, and networkd never does.
	if systemctl -q is-active systemd-udevd.service; then
		udevadm control --reload || :
	fi
	if systemctl -q is-active systemd-networkd.service; then
		networkctl reload || :
	fi
	systemctl try-restart bpfacq.service bpfacq-edge.service ||
		echo 'bpfacq: see "systemctl status bpfacq bpfacq-edge"' >&2
fi
