#!/bin/bash
# SPDX-License-Identifier: MIT
# Downloads a Debian package and unpacks it (does not install it) into a directory.
# usage: scripts/debian-package.sh ARCHITECTURE PACKAGE DIRECTORY
# PACKAGE may be a metapackage of kernels, linux-image-FLAVOUR: then the kernel it depends on is taken.
set -eu
. "$(dirname "$0")/lib.sh"

[ $# = 3 ] || die "usage: scripts/debian-package.sh ARCHITECTURE PACKAGE DIRECTORY"
arch=$1
wanted=$2
directory=$3

work=$(mktemp -d "$cache/package.XXXXXX")
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

# $1: own_apt or host_apt
download() {
	local package=$wanted
	case $wanted in
	linux-image-*)
		package=$("$1" apt-cache depends "$wanted" 2>/dev/null |
			sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1)
		package=${package%:*}
		[ -n "$package" ] || return 1
		;;
	esac
	say "downloading $package ($arch)"
	(cd "$work" && "$1" apt-get download "$package") >"$work/download.log" 2>&1
}

if [ "$arch" != "$(dpkg --print-architecture)" ] || ! download host_apt; then
	mkdir -p "$apt_state/state/lists/partial" "$apt_state/cache/archives/partial"
	: >"$apt_state/status"
	say "fetching Debian's package lists for $arch"
	# One list of several may be unavailable while a mirror is being updated: what counts is whether the package is found.
	own_apt apt-get update >"$work/update.log" 2>&1 || true
	download own_apt || { cat "$work"/*.log >&2; die "cannot download $wanted"; }
fi
dpkg-deb -x "$work"/*.deb "$directory"
