#!/bin/bash
# SPDX-License-Identifier: MIT
# Downloads a Debian kernel package and unpacks it (does not install it).
# usage: scripts/guest-kernel.sh [cloud-amd64|amd64|686]
# Prints the directory that then holds vmlinuz, config, version and lib/modules/VERSION.
set -eu
. "$(dirname "$0")/lib.sh"

flavour=${1:-cloud-amd64}
case $flavour in
cloud-amd64 | amd64) arch=amd64 ;;
686 | 686-pae) arch=i386 ;;
*) die "usage: scripts/guest-kernel.sh [cloud-amd64|amd64|686]" ;;
esac

target=$cache/kernel-$flavour
if [ -f "$target/version" ]; then
	echo "$target"
	exit 0
fi
exclusively "kernel-$flavour"
if [ -f "$target/version" ]; then # made while we waited
	echo "$target"
	exit 0
fi

work=$(mktemp -d "$cache/kernel-$flavour.XXXXXX")
trap 'rm -rf "$work"' EXIT

# apt with lists of its own: needs no root, knows other architectures, and is fresh where the host's lists are not.
apt_state=$cache/apt-$arch
own_apt() {
	local command=$1
	shift
	"$command" -qq -o APT::Sandbox::User="$(id -un)" -o APT::Architecture="$arch" -o APT::Architectures="$arch" \
		-o Dir::State="$apt_state/state" -o Dir::State::status="$apt_state/status" \
		-o Dir::Cache="$apt_state/cache" -o Acquire::Languages=none "$@"
}
host_apt() {
	local command=$1
	shift
	"$command" -qq -o APT::Sandbox::User="$(id -un)" "$@"
}

# The package linux-image-FLAVOUR only depends on the one with the kernel in it. $1: own_apt or host_apt
download() {
	local package
	package=$("$1" apt-cache depends "linux-image-$flavour" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1)
	package=${package%:*}
	[ -n "$package" ] || return 1
	say "downloading $package ($arch)"
	(cd "$work" && "$1" apt-get download "$package") >"$work/log" 2>&1
}

if [ "$arch" != "$(dpkg --print-architecture)" ] || ! download host_apt; then
	mkdir -p "$apt_state/state/lists/partial" "$apt_state/cache/archives/partial"
	: >"$apt_state/status"
	say "fetching Debian's package lists for $arch"
	own_apt apt-get update >"$work/log" 2>&1 || { cat "$work/log" >&2; die "cannot fetch Debian's package lists"; }
	download own_apt || { cat "$work/log" >&2; die "cannot download linux-image-$flavour"; }
fi

dpkg-deb -x "$work"/*.deb "$work/unpacked"
version=$(basename "$work"/unpacked/boot/vmlinuz-*)
version=${version#vmlinuz-}
mkdir "$work/kernel"
mv "$work/unpacked/boot/vmlinuz-$version" "$work/kernel/vmlinuz"
mv "$work/unpacked/boot/config-$version" "$work/kernel/config"
mv "$work/unpacked/lib" "$work/kernel/lib"
echo "$version" >"$work/kernel/version"
rm -rf "$target"
mv "$work/kernel" "$target"
say "kernel $version is in $target"
echo "$target"
