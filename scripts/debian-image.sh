#!/bin/bash
# SPDX-License-Identifier: MIT
# Makes a Debian root file system (systemd, network, compiler, interpreters) as a raw ext4 image, for tests and benchmarks.
# usage: scripts/debian-image.sh [test|bench]
# `bench` is what `test` (the default) is, and the further programs that bench/jobs runs.
# Prints the image's name. Made once; use it with snapshot, or copy it. Boot it with an initramfs of guest-initramfs.sh and
# `root=/dev/vda console=ttyS0`. root logs in without a password; eth0 is configured by DHCP (systemd-networkd).
set -eu
. "$(dirname "$0")/lib.sh"

name=debian
size=1536M
more=
case "${1:-test}" in
test) ;;
bench)
	name=debian-bench
	size=2048M
	more=,git,zstd,nginx-light,mawk,diffutils
	;;
*) die "usage: scripts/debian-image.sh [test|bench]" ;;
esac
image=$cache/$name.img
stamp=$cache/$name.stamp
kernel=$("$root/scripts/guest-kernel.sh" cloud-amd64)
want="4 $(cat "$kernel/version")" # raise the number when what is below changes
fresh() { [ -f "$image" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; }

if fresh; then
	echo "$image"
	exit 0
fi
exclusively "$name-image"
if fresh; then # made while we waited
	echo "$image"
	exit 0
fi

for tool in mmdebstrap mke2fs; do
	command -v $tool >/dev/null || PATH=$PATH:/sbin:/usr/sbin command -v $tool >/dev/null ||
		die "there is no $tool: scripts/deps.sh test installs it"
done
PATH=$PATH:/sbin:/usr/sbin
as_owner=
if [ "$(id -u)" != 0 ]; then
	command -v fakeroot >/dev/null || die "to make the image as an ordinary user, fakeroot is needed"
	as_owner=fakeroot
fi

work=$(mktemp -d "$cache/$name.XXXXXX")
trap 'rm -rf "$work"' EXIT
packages=systemd-sysv,udev,dbus,util-linux,login,iproute2,iputils-ping,wget,ca-certificates,procps,kmod
packages=$packages,gcc,libc6-dev,make,python3-minimal,libpython3-stdlib,sqlite3,openssl,perl,gzip,xz-utils,bzip2,bc$more

say "building a Debian root file system with mmdebstrap (a few minutes, once)"
mmdebstrap --quiet --variant=minbase --include="$packages" --components=main \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --aptopt='Acquire::Languages "none"' \
	bookworm "$work/root.tar" >"$work/log" 2>&1 </dev/null || { tail -20 "$work/log" >&2; die "mmdebstrap failed"; }

cat >"$work/fill" <<EOF
set -eu
mkdir "$work/root"
cd "$work/root"
tar -x --numeric-owner --exclude='./dev/*' -f "$work/root.tar"
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/*
mkdir -p lib/modules etc/systemd/network etc/systemd/system/serial-getty@ttyS0.service.d
cp -a --no-preserve=ownership "$kernel/lib/modules/"* lib/modules/
sed -i 's/^root:[^:]*:/root::/' etc/shadow
echo lodge-guest >etc/hostname
printf '127.0.0.1 localhost lodge-guest\n' >etc/hosts
printf '/dev/vda / ext4 defaults,noatime 0 1\n' >etc/fstab
printf '[Match]\nName=e*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n' >etc/systemd/network/10-ethernet.network
rm -f etc/machine-id
echo 0123456789abcdef0123456789abcdef >etc/machine-id
ln -sf /lib/systemd/system/systemd-networkd.service etc/systemd/system/multi-user.target.wants/systemd-networkd.service
mkdir -p etc/systemd/system/network-online.target.wants
mkdir -p etc/systemd/system/getty.target.wants
ln -sf /lib/systemd/system/serial-getty@.service etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service
printf 'nameserver 10.0.2.3\n' >etc/resolv.conf
# What only costs time in a throw-away machine.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
	getty@tty1.service systemd-timesyncd.service nginx.service; do
	ln -sf /dev/null "etc/systemd/system/\$unit"
done
mkdir -p dev
mke2fs -q -F -t ext4 -L lodge-debian -O ^metadata_csum_seed -E lazy_itable_init=1,root_owner=0:0 -m 0 -d . "$work/image" $size
EOF
$as_owner bash "$work/fill" || die "cannot make the ext4 image"
mv "$work/image" "$image"
echo "$want" >"$stamp"
say "$image is ready"
echo "$image"
