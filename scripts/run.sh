#!/bin/bash
# SPDX-License-Identifier: MIT
# `make run`: Debian's stock kernel with a busybox user space, in Lodge. On a terminal a shell, else a demonstration.
# The environment may set LODGE (the program) and LODGE_RUN_OPTIONS (more options for `lodge run`).
set -eu
. "$(dirname "$0")/lib.sh"

lodge=${LODGE:-${LODGE_BUILD:-$root/build}/lodge}
[ -x "$lodge" ] || die "there is no $lodge: run 'make' first"
kernel=$("$root/scripts/guest-kernel.sh" cloud-amd64)
initramfs=$("$root/scripts/guest-initramfs.sh")
disk=$cache/run-disk.img
[ -f "$disk" ] || truncate -s 64M "$disk"

action=lodge.demo
if [ -t 0 ]; then
	size=$(stty size | tr ' ' x)
	action=
	[ "$size" = 0x0 ] || action=lodge.size=$size
fi
say "booting Debian's kernel $(cat "$kernel/version")"
# shellcheck disable=SC2086
exec "$lodge" run --summary --name run --cpus 2 --memory 512M --kernel "$kernel/vmlinuz" --initrd "$initramfs" \
	--append "console=ttyS0 quiet panic=-1 $action" --no-reboot --disk "$disk,snapshot" ${LODGE_RUN_OPTIONS:-}
