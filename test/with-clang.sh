#!/bin/sh
# usage: with-clang.sh COMMAND...
#
# Runs a command that needs clang-19. Some distributions do not have it: building
# bpfacq needs none, so there the command is skipped, unless CI=true.
set -eu

missing=
for tool in clang-19 clang-format-19 llvm-strip-19; do
	command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -e /usr/include/bpf/bpf_helpers.h ] || missing="$missing libbpf-dev"
[ -n "$missing" ] || exec "$@"

echo "skipped for want of$missing: $*" >&2
[ "${CI-}" != true ]
