#!/bin/sh
# SPDX-License-Identifier: MIT
# The benchmark on the inside: PID 1 of the Debian guest before any service, or (native) an ordinary process in a chroot
# of the same files. Says MARK when something begins and ends; the host takes the time. OUT lines are what jobs printed.
# Words of the kernel command line, or natively of BENCH_WORDS:
#   bench.what=jobs,paths,code,scaling,idle   what to do, in this order
#   bench.jobs=NAME,...        only these jobs       bench.percent=N    N % of the repetitions
#   bench.disk=DEVICE  bench.net=ADDRESS:PORT        for paths
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C GIT_CONFIG_NOSYSTEM=1
export p=/run/payload
if [ -n "${BENCH_WORDS:-}" ]; then
	words=$BENCH_WORDS
	native=yes
else
	exec </dev/console >/dev/console 2>&1
	stty -echo
	words=$(cat /proc/cmdline)
	native=
	mount -t tmpfs -o size=80% tmpfs /tmp
	mount -o remount,ro / # as it is natively
fi
what=,jobs, only= percent=100 disk= net=
for word in $words; do
	case $word in
	bench.what=*) what=,${word#*=}, ;;
	bench.jobs=*) only=,${word#*=}, ;;
	bench.percent=*) percent=${word#*=} ;;
	bench.disk=*) disk=${word#*=} ;;
	bench.net=*) net=${word#*=} ;;
	esac
done

if [ ! "$native" ]; then
	ip link set lo up
	if [ -e /sys/class/net/eth0 ]; then
		ip link set eth0 up
		ip address add 10.0.2.15/24 dev eth0
		ip route add default via 10.0.2.2
	fi
fi

mark() {
	echo "MARK $*"
}

# Makes the input of the jobs, from files of the image, which are the same for everyone. Not measured.
prepare() {
	mkdir -p /tmp/work && cd /tmp/work || exit
	cat /usr/bin/[a-m]* /usr/lib/x86_64-linux-gnu/*.so* 2>/dev/null | head -c 4000000 >mixed
	cat /usr/lib/python3.11/*.py /usr/share/perl/5*/*.pm 2>/dev/null | head -c 4000000 >text
	# The programs of the jobs, so that the first of them does not wait for the disk.
	cat /usr/lib/gcc/x86_64-linux-gnu/*/cc1 /usr/bin/*-as /usr/bin/*-ld.bfd /usr/bin/git /usr/bin/python3 >/dev/null
	gzip -1 -c mixed >mixed.gz
	xz -0 -c mixed >mixed.xz
	cp $p/rsa.pem . # a new one each time bench/run is started
	printf '0123456789abcdef0123456789abcdef' >digest
	mkdir tree project
	cp -r /usr/lib/python3.11/asyncio /usr/lib/python3.11/email /usr/lib/python3.11/json /usr/share/perl/5*/CPAN \
		/usr/share/perl/5*/Module /usr/lib/python3.11/*.py tree/ 2>/dev/null
	prepare_project
	prepare_repository
}

# Our own programs, each compiled several times.
prepare_project() {
	objects=
	for n in 1 2 3; do
		for source in paths host math code quick-compile; do
			objects="$objects $source-$n.o"
			printf '%s-%s.o: %s/%s.c\n\tgcc -O1 -c -o $@ $<\n' $source $n $p $source
		done
	done >project/rules
	objects=$(sed -n 's/^\([^:\t]*\.o\):.*/\1/p' project/rules | tr '\n' ' ')
	{
		printf 'all: %s\n\tgcc -o math math-1.o -lm\nclean:\n\trm -f *.o math\n' "$objects"
		cat project/rules
	} >project/Makefile
}

prepare_repository() {
	export GIT_AUTHOR_DATE='2000-01-01T00:00:00Z' GIT_COMMITTER_DATE='2000-01-01T00:00:00Z'
	git config --global user.name bench
	git config --global user.email bench@example.org
	git config --global init.defaultBranch main
	git config --global gc.auto 0
	git init -q repository
	cp -r tree/email tree/json tree/asyncio repository/
	git -C repository add .
	git -C repository commit -q -m first
	for n in 1 2 3 4 5; do
		for file in repository/asyncio/*.py; do echo "# change $n" >>"$file"; done
		git -C repository commit -q -a -m "change $n"
	done
}

# The host sends the requests (bench/run), and says when it has all answers.
serve_http() {
	mkdir -p www nginx
	head -c 4096 text >www/small.txt
	cat >nginx/conf <<-EOF
		daemon on; worker_processes 1; pid /tmp/work/nginx/pid; error_log /tmp/work/nginx/error; user root;
		events { worker_connections 256; }
		http { access_log off; keepalive_requests 1000000; default_type text/plain;
			client_body_temp_path nginx/1; proxy_temp_path nginx/2; fastcgi_temp_path nginx/3;
			uwsgi_temp_path nginx/4; scgi_temp_path nginx/5;
			server { listen 18080; root /tmp/work/www; } }
	EOF
	nginx -p /tmp/work -c /tmp/work/nginx/conf || return
	mark http serve "$1"
	read -r _
	nginx -p /tmp/work -c /tmp/work/nginx/conf -s stop
}

# A shell of its own, so that what a job does to variables and the current directory does not matter to the next one.
repeat() (
	times=$1
	command=$2
	while [ "$times" -gt 0 ]; do
		eval "$command"
		times=$((times - 1))
	done
)

run_job() {
	name=$1
	times=$(($2 * percent / 100))
	[ $times -gt 0 ] || times=1
	if [ "$3" = serve_http ]; then
		[ "$net" ] && serve_http $times
		return
	fi
	mark "$name" begin
	repeat $times "$3" </dev/null >out 2>errors
	mark "$name" end
	echo "OUT $name $(tail -n 1 out | cksum) $(head -c 200 errors | tr '\n' ' ')"
	rm -rf out errors
}

run_jobs() {
	while read -r name times command <&3; do
		case $name in '' | '#'*) continue ;; esac
		case "${only:-,$name,}" in *,"$name",*) run_job "$name" "$times" "$command" 3<&- ;; esac
	done 3<$p/jobs
}

mark start
case $what in *jobs* | *scaling*) prepare ;; esac
cd /tmp || exit
mark prepared
echo "CLOCK $(cut -d ' ' -f 1 /proc/uptime)"
case $what in *,jobs,*)
	cd /tmp/work && run_jobs
	;;
esac
case $what in *,paths,*)
	cp $p/paths /tmp/paths # executed from memory
	/tmp/paths -t 0.$(printf %03d $((percent * 2 < 999 ? percent * 2 : 999))) -d "$disk" -n "$net"
	;;
esac
case $what in *,code,*)
	$p/code -t $((percent >= 100 ? 3 : 1)) 1 8 64
	;;
esac
case $what in *,scaling,*)
	make -s -C /tmp/work/project clean
	mark scaling begin
	make -s -C /tmp/work/project -j "$(nproc)" all
	mark scaling end
	;;
esac
echo "CLOCK $(cut -d ' ' -f 1 /proc/uptime)"
mark idle
[ "$native" ] && exit
read -r _ # the host looks at our memory, then says that we can go
exec $p/quick poweroff
