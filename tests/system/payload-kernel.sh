# SPDX-License-Identifier: MIT
# Run by busybox in the guest of test_kernel: exercises the machine and prints what the host compares.
export PATH=/bin
say() { echo "RESULT $*"; }
say cpus $(grep -c ^processor /proc/cpuinfo)
say memory $(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)
say clock $(date +%s)
say sha256 $(seq 1 60000 | sha256sum | cut -d ' ' -f 1)
seq 1 200000 >/tmp/numbers
gzip -c /tmp/numbers >/tmp/numbers.gz
say gunzip $(gunzip -c /tmp/numbers.gz | md5sum | cut -d ' ' -f 1)
# one worker for each CPU, at once
n=$(grep -c ^processor /proc/cpuinfo)
i=0
while [ $i -lt $n ]; do
	(seq 1 30000 | sha512sum >/tmp/worker.$i) &
	i=$((i + 1))
done
wait
say workers $(cat /tmp/worker.* | sort | uniq -c | sed 's/^ *\([0-9]*\) .*/\1/')
# processes
i=0
while [ $i -lt 300 ]; do
	/bin/true
	i=$((i + 1))
done
say forks $i
# sleeping is as long as it says, whatever the clock source
t=$(cut -d ' ' -f 1 /proc/uptime | tr -d .)
sleep 1
say sleep $(($(cut -d ' ' -f 1 /proc/uptime | tr -d .) - t))
say clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
say rng $(cat /sys/class/misc/hw_random/rng_available 2>/dev/null)
# disk: what the host wrote, and what it will read
if [ -e /dev/vda ]; then
	say disk-in $(dd if=/dev/vda bs=64k count=64 2>/dev/null | sha256sum | cut -d ' ' -f 1)
	if [ -w /dev/vda ] && [ "$(cat /sys/block/vda/ro)" = 0 ]; then
		gunzip -c /tmp/numbers.gz | dd of=/dev/vda bs=4k conv=fsync 2>/dev/null
		sync
		echo 3 >/proc/sys/vm/drop_caches
		say disk-out $(dd if=/dev/vda bs=4k 2>/dev/null | head -c 1288895 | md5sum | cut -d ' ' -f 1)
	fi
fi
[ -e /dev/vdb ] && say vdb-ro $(cat /sys/block/vdb/ro) $(dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync >/dev/null 2>&1 && echo written || echo refused)
# network
for word in $(cat /proc/cmdline); do
	case $word in
	http=*) port=${word#http=} ;;
	esac
done
if [ -n "$port" ]; then
	ip link set lo up
	ip link set eth0 up
	udhcpc -i eth0 -n -q -t 10 -T 1 -s /bin/udhcpc-script >/dev/null 2>&1
	say address $(ip -4 addr show eth0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p')
	say fetch $(wget -q -O - http://10.0.2.2:$port/file | sha256sum | cut -d ' ' -f 1)
fi
say interrupts-bad $(sed -n 's/^ *ERR: *//p; s/^ *MIS: *//p' /proc/interrupts)
say done
