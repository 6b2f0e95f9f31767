#!/bin/sh
# SPDX-License-Identifier: MIT
# Runs guest.sh natively: in a chroot of the same image, mounted read-only, with a /tmp in memory, on one CPU.
# usage: native.sh IMAGE PAYLOAD CPUS WORDS...       as root; nothing stays mounted when it ends
set -eu
if [ "${1:-}" != inside ]; then
	exec unshare --mount "$0" inside "$@"
fi
image=$2 payload=$3 cpus=$4
shift 4
PATH=$PATH:/usr/sbin:/sbin
mount --make-rprivate /
root=$(mktemp -d /tmp/lodge-native.XXXXXX)
trap 'umount -R "$root"; rmdir "$root"' EXIT
mount -o loop,ro "$image" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs tmpfs "$root/run"
cp -r "$payload" "$root/run/payload"
disk=$(findmnt -n -o SOURCE "$root")
BENCH_WORDS="$* bench.disk=$disk" taskset -c "$cpus" chroot "$root" /run/payload/guest.sh
