#!/bin/sh
# dpkg: remove, upgrade NEW VERSION, …; rpm: 0 for a removal, 1 for an upgrade.
set -e

case ${1-} in
remove | 0) ;;
*) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
	systemctl --quiet stop bpfacq.service bpfacq-edge.service ||
		echo 'bpfacq: see "systemctl status bpfacq bpfacq-edge"' >&2
fi
if command -v systemctl >/dev/null; then
	systemctl --quiet --no-reload disable bpfacq.service bpfacq-edge.service || :
fi
# An agent that was killed has left its datapath. The configuration, which may
# name another folder of pins, may also be broken.
bpfacq detach --all >/dev/null || bpfacq detach --all --pins /sys/fs/bpf/bpfacq >/dev/null || :
