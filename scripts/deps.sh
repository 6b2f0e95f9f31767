#!/bin/bash
# SPDX-License-Identifier: MIT
# Installs the Debian 12 packages that building, running, testing or benchmarking needs, as far as they are missing.
# usage: scripts/deps.sh build|run|test|bench
set -eu
. "$(dirname "$0")/lib.sh"

build="gcc libc6-dev meson ninja-build pkg-config python3 acpica-tools libslirp-dev zlib1g-dev libzstd-dev
	liblzma-dev libzydis-dev libzycore-dev libcmocka-dev"
run="busybox-static cpio"
test="$run make binutils mmdebstrap fakeroot e2fsprogs gdb openssl perl sqlite3 xz-utils bzip2 qemu-system-x86"
bench="$run gcc libc6-dev python3 openssl util-linux mmdebstrap fakeroot e2fsprogs qemu-system-x86"

case "${1:-}" in
build) wanted=$build ;;
run) wanted=$run ;;
test) wanted=$test ;;
bench) wanted=$bench ;;
*) die "usage: scripts/deps.sh build|run|test|bench" ;;
esac

# What is not in state "installed"; pkg-config may be provided by pkgconf.
missing=
for package in $wanted; do
	state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

say "installing what '$1' needs:$missing"
as_root=env
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || die "not root and no sudo: as root, run: apt-get install --no-install-recommends$missing"
	as_root="sudo env"
fi
export DEBIAN_FRONTEND=noninteractive
install() {
	$as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		-o Dpkg::Use-Pty=0 $missing >"$cache/deps.log" 2>&1 </dev/null
}
# Package lists that are missing or old make the first try fail.
if ! install; then
	say "refreshing the package lists"
	$as_root apt-get update -qq >"$cache/deps.log" 2>&1 </dev/null || { tail -5 "$cache/deps.log" >&2; die "apt-get update failed"; }
	install || { tail -5 "$cache/deps.log" >&2; die "apt-get install failed; see $cache/deps.log"; }
fi
