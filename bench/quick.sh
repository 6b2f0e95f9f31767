#!/bin/sh
# SPDX-License-Identifier: MIT
# bench/run --quick inside the guest: PID 1 of the Debian system, before any service. The host takes the time of each MARK.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
cd /run/payload || exit 1
exec </dev/console >/dev/console 2>&1
mount -t tmpfs tmpfs /tmp 2>/dev/null

# The data: programs and libraries of the image, which are the same for everyone.
cat /usr/bin/* /usr/lib/x86_64-linux-gnu/*.so* 2>/dev/null | head -c 30000000 >/tmp/data

run() {
	name=$1
	shift
	echo "MARK $name begin"
	"$@"
	echo "MARK $name end $?"
}
compile() {
	n=0
	while [ $n -lt 10 ]; do
		gcc -O2 -c -o /tmp/small.o quick-compile.c || return
		n=$((n + 1))
	done
}
compress() {
	gzip -6 -c /tmp/data >/dev/null
}

run getppid ./quick getppid 200000
run forkexec ./quick forkexec 100 /bin/true
run gzip compress
run gcc compile
exec ./quick poweroff
