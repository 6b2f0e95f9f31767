#!/bin/bash
# SPDX-License-Identifier: MIT
# Builds an initramfs around busybox-static for a kernel unpacked by guest-kernel.sh.
# usage: scripts/guest-initramfs.sh [-k FLAVOUR] [-a FILE[:NAME]]... [-o OUTPUT]
#   -k  the kernel (default cloud-amd64)
#   -a  put FILE into the guest as /payload/NAME; see scripts/guest-init for what is done with it
# Prints the name of the (uncompressed) archive. Built anew only when something it is made of has changed.
set -eu
. "$(dirname "$0")/lib.sh"

flavour=cloud-amd64
output=
payload=()
while getopts k:a:o: option; do
	case $option in
	k) flavour=$OPTARG ;;
	a) payload+=("$OPTARG") ;;
	o) output=$OPTARG ;;
	*) die "usage: scripts/guest-initramfs.sh [-k FLAVOUR] [-a FILE[:NAME]]... [-o OUTPUT]" ;;
	esac
done
kernel=$("$root/scripts/guest-kernel.sh" "$flavour")
if [ -z "$output" ]; then
	output=$cache/initramfs-$flavour
	# Other contents, other file.
	[ ${#payload[@]} = 0 ] || output=$output-$(printf '%s\n' "${payload[@]}" | cksum | cut -d ' ' -f 1)
	output=$output.cpio
fi

# Static, so that it is all the guest needs; of the kernel's architecture.
arch=$(cat "$kernel/architecture")
busybox=/bin/busybox
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
	busybox=$cache/busybox-$arch/bin/busybox
	if [ ! -x "$busybox" ]; then
		exclusively "busybox-$arch"
		[ -x "$busybox" ] || "$root/scripts/debian-package.sh" "$arch" busybox-static "$cache/busybox-$arch"
	fi
fi
[ -x "$busybox" ] || die "there is no busybox: scripts/deps.sh run installs it"

sources=("$0" "$root/scripts/guest-init" "$root/scripts/guest-udhcpc" "$kernel/version" "$busybox")
for item in "${payload[@]}"; do sources+=("${item%%:*}"); done
fresh=no
if [ -f "$output" ]; then
	fresh=yes
	for source in "${sources[@]}"; do
		[ "$source" -nt "$output" ] && fresh=no
	done
fi
if [ $fresh = yes ]; then
	echo "$output"
	exit 0
fi

work=$(mktemp -d "$cache/initramfs.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{bin,etc,lib/modules,payload}
cp "$busybox" "$work/bin/busybox"
cp "$root/scripts/guest-init" "$work/init"
cp "$root/scripts/guest-udhcpc" "$work/bin/udhcpc-script"
chmod 755 "$work/init" "$work/bin/udhcpc-script"
for item in "${payload[@]}"; do
	name=${item#*:}
	[ "$name" != "$item" ] || name=$(basename "$item")
	cp -a "${item%%:*}" "$work/payload/$name"
done

# Each module after those it depends on. A module that is not there is built into the kernel.
modules=$kernel/lib/modules/$(cat "$kernel/version")
declare -A added=()
add_module() {
	local file dependency
	[ -z "${added[$1]:-}" ] || return 0
	added[$1]=1
	file=$(find "$modules" -name "$1.ko" -o -name "${1//_/-}.ko" | head -n 1)
	[ -n "$file" ] || return 0
	for dependency in $(tr '\0' '\n' <"$file" | sed -n 's/^depends=//p' | tr ',' ' '); do
		add_module "$dependency"
	done
	cp "$file" "$work/lib/modules/"
	basename "$file" >>"$work/lib/modules/order"
}
: >"$work/lib/modules/order"
# What Debian's full kernels have as modules and its cloud kernel has built in comes along where it is needed.
for module in virtio_pci virtio_blk virtio_net virtio_console virtio_rng crc32c_generic ext4 af_packet; do
	add_module $module
done

(cd "$work" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$output.new.$$"
mv "$output.new.$$" "$output"
echo "$output"
