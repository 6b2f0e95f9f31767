#!/bin/bash
# SPDX-License-Identifier: MIT
# Downloads a Debian kernel package and unpacks it (does not install it).
# usage: scripts/guest-kernel.sh [cloud-amd64|amd64|686|686-pae]
# Prints the directory that then holds vmlinuz, config, version, architecture and lib/modules/VERSION.
set -eu
. "$(dirname "$0")/lib.sh"

flavour=${1:-cloud-amd64}
case $flavour in
cloud-amd64 | amd64) arch=amd64 ;;
686 | 686-pae) arch=i386 ;;
*) die "usage: scripts/guest-kernel.sh [cloud-amd64|amd64|686|686-pae]" ;;
esac

target=$cache/kernel-$flavour
if [ -f "$target/architecture" ]; then
	echo "$target"
	exit 0
fi
exclusively "kernel-$flavour"
if [ -f "$target/architecture" ]; then # made while we waited
	echo "$target"
	exit 0
fi

work=$(mktemp -d "$cache/kernel-$flavour.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$root/scripts/debian-package.sh" "$arch" "linux-image-$flavour" "$work/unpacked"
version=$(basename "$work"/unpacked/boot/vmlinuz-*)
version=${version#vmlinuz-}
mkdir "$work/kernel"
mv "$work/unpacked/boot/vmlinuz-$version" "$work/kernel/vmlinuz"
mv "$work/unpacked/boot/config-$version" "$work/kernel/config"
mv "$work/unpacked/lib" "$work/kernel/lib"
echo "$version" >"$work/kernel/version"
echo "$arch" >"$work/kernel/architecture"
rm -rf "$target"
mv "$work/kernel" "$target"
say "kernel $version is in $target"
echo "$target"
