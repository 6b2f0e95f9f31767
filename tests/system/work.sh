#!/bin/sh
# SPDX-License-Identifier: MIT
# Work with real programs, whose results do not depend on the machine: run on the host and in the guest, and compared.
# usage: work.sh DIRECTORY     prints NAME VALUE lines
set -u
cd "$1" || exit 1
export LC_ALL=C

cat >primes.c <<'C'
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}
int main(int argc, char **argv)
{
	int n = atoi(argv[1]), count = 0;
	char *sieve = calloc(n + 1, 1);
	for (int i = 2; i <= n; i++) {
		if (sieve[i])
			continue;
		count++;
		for (long j = (long)i * i; j <= n; j += i)
			sieve[j] = 1;
	}
	double *v = malloc(100000 * sizeof(double)), sum = 0;
	for (int i = 0; i < 100000; i++)
		v[i] = sin(i) * exp(i % 10) + sqrt(i);
	qsort(v, 100000, sizeof(double), compare);
	for (int i = 0; i < 100000; i += 97)
		sum += v[i] * (i & 1 ? 1 : -1);
	long double l = 1.0L;
	for (int i = 1; i < 60; i++)
		l = l * i / 3.0L + 0.1L;
	printf("%d %.12f %.15Lg\n", count, sum, l);
	return 0;
}
C
for o in -O0 -O2; do
	gcc $o -ffp-contract=off -o primes$o primes.c -lm && echo "gcc$o $(./primes$o 2000000)"
done
gcc -O2 -S -o - primes.c | grep -v '\.file\|\.ident' | sha256sum | sed 's/ .*//; s/^/gcc-assembly /'
cat >Makefile <<'M'
all: a.o b.o c.o
%.o: %.c
	gcc -O1 -c -o $@ $<
M
for f in a b c; do echo "int $f(int x) { return x * 3 + sizeof(\"$f\"); }" >$f.c; done
make -s -j2 && echo "make $(cat a.o b.o c.o | wc -c)"
python3 -c '
import hashlib, json, math, random, re, struct
random.seed(42)
data = [random.random() for _ in range(20000)]
print("python-hash", hashlib.sha256(struct.pack("<20000d", *data)).hexdigest())
print("python-sum", math.fsum(sorted(data)), sum(i * i for i in range(100000)), 3 ** 2000 % 10 ** 40)
words = re.findall(r"[a-z]+", json.dumps({str(i): "abc%dxyz" % i for i in range(3000)}))
print("python-text", len(words), hashlib.md5(" ".join(words).encode()).hexdigest())
'
rm -f test.db
sqlite3 test.db "
create table t(a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 30000)
insert into t select i, printf('row-%05d', (i * 7919) % 30011), i * 0.5 from n;
create index tb on t(b);
select 'sqlite', count(*), sum(a), sum(c), min(b), max(b) from t where b > 'row-10000';
select 'sqlite-join', count(*) from t x join t y on x.b = y.b where x.a % 3 = 0;
pragma integrity_check;" | sed 's/^ok$/sqlite-check ok/; s/|/ /g'
i=0
while [ $i -lt 200 ]; do echo "line $i of some text that is hashed and encrypted"; i=$((i + 1)); done >plain
for digest in sha256 sha512 md5 sha1 sha3-256 blake2b512; do
	echo "openssl-$digest $(openssl dgst -$digest -r plain | sed 's/ .*//')"
done
for cipher in aes-256-cbc aes-128-ctr chacha20; do
	openssl enc -$cipher -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -iv 000102030405060708090a0b0c0d0e0f \
		-in plain -out cipher 2>/dev/null ||
		openssl enc -$cipher -K 000102030405060708090a0b0c0d0e0f -iv 000102030405060708090a0b0c0d0e0f -in plain -out cipher
	echo "openssl-$cipher $(openssl dgst -sha256 -r cipher | sed 's/ .*//')"
done
openssl genrsa -out key 2048 2>/dev/null
openssl dgst -sha256 -sign key -out signature plain
openssl rsa -in key -pubout -out public 2>/dev/null
echo "openssl-rsa $(openssl dgst -sha256 -verify public -signature signature plain)"
perl -e '
my %count; my $x = 12345; my $text = "";
for (1 .. 50000) { $x = ($x * 1103515245 + 12345) % 2147483648; $count{$x % 97}++; $text .= chr(97 + $x % 26) if $_ % 5 == 0; }
my $v = 0; $v += $_ * $count{$_} for keys %count;
(my $t = $text) =~ s/([aeiou]+)/<\U$1>/g;
printf "perl %d %d %s %.10f\n", $v, length $t, unpack("%32C*", $t), atan2(1, 3) * sqrt(2);'
seq 1 150000 | gzip -9 | gunzip | xz -1 | xz -d | bzip2 | bunzip2 | md5sum | sed 's/ .*//; s/^/compress /'
# 96 MiB to the disk and back
openssl enc -aes-128-ctr -K 00112233445566778899aabbccddeeff -iv 00 -in /dev/zero 2>/dev/null | head -c 100663296 >big
sync
[ "$(id -u)" = 0 ] && [ -n "${DROP_CACHES:-}" ] && echo 3 >/proc/sys/vm/drop_caches
echo "disk $(openssl dgst -sha256 -r big | sed 's/ .*//')"
rm -f big
