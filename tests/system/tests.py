# SPDX-License-Identifier: MIT
"""The system tests, in the order in which they run. A test returns None or a note; it raises Failure or Skip."""
import contextlib
import gzip
import hashlib
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time

from http_server import Server
from machine import ENGINE, FACTOR, Failure, HERE, Machine, Skip, check, script, terminate

TESTS = []
QUIET = "console=ttyS0 panic=5"
PROMPT = r"^[/~]\S* # "  # of busybox's shell


def test(function):
    TESTS.append(function)
    return function


@contextlib.contextmanager
def scratch():
    directory = tempfile.mkdtemp(prefix="lodge-system-")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def kernel(flavour="cloud-amd64"):
    return os.path.join(script("guest-kernel.sh", flavour), "vmlinuz")


def initramfs(flavour="cloud-amd64", payload=None):
    arguments = ["-k", flavour]
    if payload:
        arguments += ["-a", os.path.join(HERE, payload) + ":script"]
    return script("guest-initramfs.sh", *arguments)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def pattern(size, seed):
    """Deterministic bytes that are different in every sector."""
    out = bytearray()
    block = hashlib.sha512(seed.encode()).digest()
    while len(out) < size:
        block = hashlib.sha512(block).digest()
        out += block
    return bytes(out[:size])


def numbers(n):
    return "".join(f"{i}\n" for i in range(1, n + 1)).encode()


def results(text):
    """The RESULT lines a payload printed, as a dictionary."""
    return {m[1]: m[2].strip() for m in re.finditer(r"^RESULT (\S+) ?(.*)$", text, re.M)}


def expect_equal(got, want, name):
    check(got == want, f"{name}: the guest says '{got}', should be '{want}'")


# ---- Debian's kernels with a busybox userland ----

def kernel_test(flavour, cpus, memory="512M", mebibytes=512):
    with scratch() as d:
        disk, second = os.path.join(d, "disk"), os.path.join(d, "second")
        disk_data = pattern(4 << 20, "disk")
        with open(disk, "wb") as f:
            f.write(disk_data)
        with open(second, "wb") as f:
            f.write(pattern(1 << 20, "second"))
        fetched = pattern(3 << 20, "file")
        with Server({"/file": fetched}) as server, \
                Machine(kernel(flavour), initramfs(flavour, "payload-kernel.sh"), f"{QUIET} lodge.script http={server.port}",
                        cpus=cpus, memory=memory, disks=((disk, ""), (second, "readonly"))) as m:
            m.expect(r"Linux version", 30)
            m.expect(r"^RESULT done", 180)
            m.ends_with(0, 30)
            m.no_kernel_complaints()
            r = results(m.text)
        with open(disk, "rb") as f:
            disk_after = f.read()
        with open(second, "rb") as f:
            second_after = f.read()
    expect_equal(r.get("cpus"), str(cpus), "CPUs")
    check(mebibytes * 1024 * 0.8 < int(r.get("memory", 0)) <= mebibytes * 1024, f"memory: {r.get('memory')} KiB of {mebibytes} MiB")
    check(abs(int(r.get("clock", 0)) - time.time()) < 120, f"the guest's clock shows {r.get('clock')}")
    expect_equal(r.get("sha256"), hashlib.sha256(numbers(60000)).hexdigest(), "sha256")
    expect_equal(r.get("gunzip"), hashlib.md5(numbers(200000)).hexdigest(), "gunzip")
    expect_equal(r.get("workers"), str(cpus), "equal results of parallel workers")
    check(98 <= int(r.get("sleep", 0)) < 300, f"sleep 1 took {r.get('sleep')} hundredths of a second")
    expect_equal(r.get("disk-in"), hashlib.sha256(disk_data).hexdigest(), "disk read")
    expect_equal(r.get("disk-out"), hashlib.md5(numbers(200000)).hexdigest(), "disk written and read back")
    check(disk_after == numbers(200000) + disk_data[len(numbers(200000)):], "the disk image holds something else than was written")
    expect_equal(r.get("vdb-ro"), "1 refused", "read-only disk")
    check(second_after == pattern(1 << 20, "second"), "the read-only disk was changed")
    expect_equal(r.get("address"), "10.0.2.15", "DHCP lease")
    expect_equal(r.get("fetch"), hashlib.sha256(fetched).hexdigest(), "file over the network")
    check(re.fullmatch(r"[0 ]*", r.get("interrupts-bad", "0")), f"bad interrupts: {r.get('interrupts-bad')}")
    if ENGINE != "qemu":
        check(r.get("clocksource") in ("tsc", "kvm-clock"), f"clock source {r.get('clocksource')}")
    check("virtio" in r.get("rng", ""), f"random number generators: '{r.get('rng')}'")
    return f"clock source {r.get('clocksource')}"


@test
def kernel_1_cpu():
    return kernel_test("cloud-amd64", 1)


@test
def kernel_2_cpus():
    return kernel_test("cloud-amd64", 2)


@test
def kernel_4_cpus():
    return kernel_test("cloud-amd64", 4)


@test
def kernel_full():
    """Debian's ordinary kernel, with its drivers as modules."""
    return kernel_test("amd64", 2)


@test
def kernel_i386():
    """A 32-bit kernel without PAE (linux-image-686), 32-bit busybox."""
    return kernel_test("686", 1)


@test
def memory_large():
    """RAM on both sides of the hole below 4 GiB."""
    with Machine(kernel(), initramfs(), f"{QUIET} lodge.demo", memory="5G") as m:
        kib = int(m.expect(r"^memory +(\d+) kB", 90)[1])
        m.ends_with(0, 60)
        m.no_kernel_complaints()
    check(kib > 4.7 * 1024 * 1024, f"the guest sees {kib} KiB of 5 GiB")


# ---- ends ----

@test
def reboot():
    """Two boots in one run, then power-off."""
    with Machine(kernel(), initramfs(), QUIET, reboot=True) as m:
        for _ in range(2):
            m.expect(r"Linux version", 30)
            m.expect(PROMPT, 60)
            m.send("echo alive-$((40 + 2)); reboot -f\n")
            m.expect(r"^alive-42", 30)
        m.expect(r"Linux version", 60)
        m.expect(PROMPT, 60)
        m.send("poweroff -f\n")
        m.ends_with(0)
        m.no_kernel_complaints()


@test
def no_reboot():
    with Machine(kernel(), initramfs(), QUIET) as m:
        m.expect(PROMPT, 60)
        m.send("reboot -f\n")
        m.ends_with(0)
        check(m.text.count("Linux version") == 1, "it booted again")


@test
def reboot_methods():
    """The kernel's other ways to reset: keyboard controller, PCI 0xcf9, ACPI."""
    for way in "k", "p", "a":
        with Machine(kernel(), initramfs(), f"{QUIET} reboot={way}") as m:
            m.expect(PROMPT, 60)
            m.send("reboot -f\n")
            try:
                m.ends_with(0)
            except Failure as e:
                raise Failure(f"reboot={way}: {e}")


@test
def panic():
    """A guest's panic reboots it (panic=5), here ends it; without panic= it stays, and the user can end lodge."""
    with Machine(kernel(), initramfs(), f"{QUIET} panic=1") as m:
        m.expect(PROMPT, 60)
        m.send("echo c >/proc/sysrq-trigger\n")
        m.expect(r"Kernel panic - not syncing", 30)
        m.ends_with(0)
    with Machine(kernel(), initramfs(), "console=ttyS0 panic=0") as m:
        m.expect(PROMPT, 60)
        m.send("echo c >/proc/sysrq-trigger\n")
        m.expect(r"end Kernel panic", 30)
        time.sleep(2)
        check(not m.died(), "lodge ended by itself")
        terminate(m)
    with Machine(kernel(), None, f"{QUIET} panic=1") as m:
        m.expect(r"Kernel panic - not syncing: VFS: Unable to mount root fs", 60)
        m.ends_with(0)


@test
def triple_fault():
    """reboot=t loads an empty IDT: the guest dies, with a register dump and status 4."""
    with Machine(kernel(), initramfs(), f"{QUIET} reboot=t") as m:
        m.expect(PROMPT, 60)
        m.send("reboot -f\n")
        if ENGINE == "qemu":
            m.wait()
            return
        m.ends_with(4)
        check(re.search(r"(?i)rip.*[0-9a-f]{8}", m.text[m.position:]), "no register dump")


@test
def terminated():
    """SIGTERM ends lodge in order, at once, whatever the guest does."""
    with Machine(kernel(), initramfs(), QUIET, cpus=2) as m:
        m.expect(PROMPT, 60)
        m.send("while :; do :; done & dd if=/dev/zero of=/dev/null &\n")
        time.sleep(1)
        before = time.monotonic()
        terminate(m)
        check(time.monotonic() - before < 5, "it took more than 5 s")


# ---- devices ----

@test
def disk_snapshot():
    with scratch() as d:
        path = os.path.join(d, "disk")
        data = pattern(8 << 20, "snapshot")
        with open(path, "wb") as f:
            f.write(data)
        with Machine(kernel(), initramfs(), QUIET, disks=((path, "snapshot"),)) as m:
            m.expect(PROMPT, 60)
            m.send("seq 1 100000 >/tmp/n; dd if=/tmp/n of=/dev/vda bs=4k seek=3 conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; "
                   "dd if=/dev/vda bs=4k skip=3 2>/dev/null | head -c 588895 | md5sum; dd if=/dev/vda bs=1M count=8 2>/dev/null | md5sum; "
                   "echo end-of-reading; poweroff -f\n")
            m.expect(r"^end-of-reading", 60)
            m.ends_with(0)
            sums = re.findall(r"^([0-9a-f]{32})  -", m.text, re.M)
        with open(path, "rb") as f:
            check(f.read() == data, "the image was changed in spite of snapshot")
    n = numbers(100000)
    whole = data[:12288] + n + data[12288 + len(n):]
    expect_equal(sums, [hashlib.md5(n).hexdigest(), hashlib.md5(whole).hexdigest()], "sums of the overlaid disk")


@test
def disk_odd_sizes():
    """Sizes that are no multiple of a page or a track; many disks."""
    with scratch() as d:
        disks = []
        for i, size in enumerate((512, 1536, 4096 * 3 + 512, 1 << 20, (1 << 30) + 512)):
            path = os.path.join(d, str(i))
            with open(path, "wb") as f:
                f.truncate(size)
                f.seek(size - 512)
                f.write(pattern(512, path[-1]))
            disks.append((path, ""))
        with Machine(kernel(), initramfs(), QUIET, disks=disks) as m:
            m.expect(PROMPT, 60)
            m.send("for d in a b c d e; do s=$(cat /sys/block/vd$d/size); echo size-$d $s "
                   "$(dd if=/dev/vd$d bs=512 skip=$((s - 1)) 2>/dev/null | md5sum); done; poweroff -f\n")
            m.ends_with(0, 60)
            found = re.findall(r"^size-(.) (\d+) ([0-9a-f]{32})", m.text, re.M)
        want = [("abcde"[i], str(os.path.getsize(p) // 512) if os.path.exists(p) else s, hashlib.md5(pattern(512, str(i))).hexdigest())
                for i, ((p, _), s) in enumerate(zip(disks, ("1", "3", "25", "2048", "2097153")))]
    expect_equal(found, want, "sizes and last sectors")


@test
def host_forward():
    """Connections from the host to a server in the guest, one after the other."""
    port = free_port()
    with Machine(kernel(), initramfs(), QUIET, forwards=((port, 8080),)) as m:
        m.expect(PROMPT, 60)
        m.send("mkdir -p /www; seq 1 50000 >/www/numbers; httpd -p 8080 -h /www; echo serving-$((1 + 1))\n")
        m.expect(r"^serving-2", 30)
        deadline = time.monotonic() + 20 * FACTOR
        for round in range(5):
            while True:
                try:
                    with socket.create_connection(("127.0.0.1", port), 5) as s:
                        s.settimeout(10 * FACTOR)
                        s.sendall(b"GET /numbers HTTP/1.0\r\n\r\n")
                        data = b""
                        while True:
                            part = s.recv(65536)
                            if not part:
                                break
                            data += part
                    body = data.split(b"\r\n\r\n", 1)[-1]
                    if body:
                        break
                except OSError as e:
                    last = e
                check(time.monotonic() < deadline, "no answer through the forwarded port")
                time.sleep(0.2)
            check(body == numbers(50000), f"round {round}: {len(body)} bytes came instead of {len(numbers(50000))}")
        m.send("poweroff -f\n")
        m.ends_with(0)


@test
def network_bulk():
    """64 MiB down and 16 MiB up over the user network, unharmed."""
    data = pattern(1 << 20, "bulk") * 64
    with Server({"/bulk": data}) as server, Machine(kernel(), initramfs(), QUIET, cpus=2) as m:
        m.expect(PROMPT, 60)
        m.send(f"wget -q -O - http://10.0.2.2:{server.port}/bulk | sha256sum; dd if=/dev/zero bs=1M count=16 2>/dev/null | tr '\\0' x >/tmp/up; "
               f"printf 'PUT /up HTTP/1.0\\r\\nContent-Length: 16777216\\r\\n\\r\\n' | cat - /tmp/up | nc 10.0.2.2 {server.port}; echo bulk-$((1 + 1))\n")
        m.expect(r"^" + hashlib.sha256(data).hexdigest(), 120)
        m.expect(r"^bulk-2", 60)
        m.send("poweroff -f\n")
        m.ends_with(0)
        m.no_kernel_complaints()
        check(server.files.get("/up") == b"x" * (16 << 20), f"{len(server.files.get('/up', b''))} bytes arrived of 16 MiB")


@test
def console_input():
    """A long paste into the serial console arrives complete."""
    lines = [f"line {i} " + "abcdefghijklmnopqrstuvwxyz" * 2 for i in range(300)]
    with Machine(kernel(), initramfs(), QUIET) as m:
        m.expect(PROMPT, 60)
        m.send("stty -echo; cat >/tmp/paste\n")
        time.sleep(0.5)
        for i in range(0, 300, 10):
            m.send("\n".join(lines[i:i + 10]) + "\n")
            time.sleep(0.02)
        m.send("\x04")
        m.send("md5sum </tmp/paste; poweroff -f\n")
        m.expect(hashlib.md5(("\n".join(lines) + "\n").encode()).hexdigest(), 60)
        m.ends_with(0)


# ---- idle and pause ----

def idle(cpus):
    with Machine(kernel(), initramfs(), QUIET, cpus=cpus) as m:
        m.expect(PROMPT, 60)
        time.sleep(5)
        before, start = m.cpu_seconds(), time.monotonic()
        while time.monotonic() - start < 10:
            m.read(0.5)
        share = (m.cpu_seconds() - before) / (time.monotonic() - start)
        m.send("poweroff -f\n")
        m.ends_with(0)
    if ENGINE != "qemu":
        check(share < 0.02, f"an idle guest takes {100 * share:.1f} % of a CPU")
    return f"{100 * share:.2f} % of a CPU"


@test
def idle_1_cpu():
    return idle(1)


@test
def idle_4_cpus():
    return idle(4)


@test
def pause_and_continue():
    """The monitor's pause stops the guest and its time; continue goes on as if nothing had been."""
    if ENGINE == "qemu":
        raise Skip("the monitor is lodge's")
    machine = Machine(kernel(), initramfs(), QUIET, cpus=2)
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp(machine.command[0], machine.command)
    text = ""

    def until(expression, timeout):
        nonlocal text
        end = time.monotonic() + timeout * FACTOR
        while time.monotonic() < end:
            match = re.search(expression, text, re.M)
            if match:
                text = text[match.end():]
                return match
            if select.select([fd], [], [], 0.2)[0]:
                try:
                    text += os.read(fd, 65536).decode("utf-8", "replace").replace("\r", "")
                except OSError:
                    break
        raise Failure(f"no '{expression}'; last: {text[-300:]!r}")

    def cpu():
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    try:
        until(PROMPT, 60)
        os.write(fd, b"while :; do :; done &\n")
        until(PROMPT, 30)
        os.write(fd, b"echo before $(cut -d ' ' -f 1 /proc/uptime | tr -d .)\n")
        before = int(until(r"^before (\d+)", 30)[1])
        os.write(fd, b"\x01c")
        time.sleep(1)
        os.write(fd, b"pause\n")
        time.sleep(1)
        start = cpu()
        time.sleep(4)
        used = cpu() - start
        os.write(fd, b"continue\n") # and back to the guest's console
        time.sleep(0.5)
        os.write(fd, b"\necho after $(cut -d ' ' -f 1 /proc/uptime | tr -d .)\n")
        after = int(until(r"^after (\d+)", 30)[1])
        os.write(fd, b"poweroff -f\n")
        end = time.monotonic() + 30 * FACTOR
        while time.monotonic() < end:
            if select.select([fd], [], [], 0.2)[0]:
                try:
                    if not os.read(fd, 65536):
                        break
                except OSError:
                    break
        done, status = os.waitpid(pid, 0)
        pid = 0
    finally:
        if pid:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        os.close(fd)
    check(used < 0.2, f"a paused guest used {used:.2f} s of CPU time in 4 s")
    check(0 <= after - before < 800, f"the guest's time went on by {(after - before) / 100} s over a pause of 5 s")
    check(os.waitstatus_to_exitcode(status) == 0, f"exit status {os.waitstatus_to_exitcode(status)}")


# ---- not Linux ----

@test
def memtest86():
    """Debian's memtest86+, which speaks the Linux boot protocol: tests some memory without finding errors."""
    path = "/boot/memtest86+x64.bin"
    with scratch() as d:
        if not os.path.exists(path):
            try:
                script("debian-package.sh", "amd64", "memtest86+", os.path.join(d, "package"))
            except Failure:
                raise Skip("the package memtest86+ cannot be had")
            path = os.path.join(d, "package/boot/memtest86+x64.bin")
        with Machine(path, None, "console=ttyS0,115200", memory="32M", net="none", cpus=2) as m:
            m.expect(r"Memtest86\+", 30)
            # the screen is drawn piece by piece with cursor addressing: the test number goes up, errors stay 0
            # (a quick machine shows nothing between the first test and the last, #10, which waits for minutes)
            m.expect(r"#([2-9]|10) +\[|Pass: +[1-9]", 150)
            check(not m.died(), "ended by itself")
            errors = [int(n) for n in re.findall(r"Errors: *(\d+)", m.text)]
            check(not any(errors), f"memory errors: {errors}")
            check("FAIL" not in m.text, "it reports FAIL")


def multiboot_package(package, path, directory):
    """A multiboot kernel out of one of Debian's packages, unpacked from its gzip; its path."""
    try:
        script("debian-package.sh", "amd64", package, os.path.join(directory, "package"))
    except Failure:
        raise Skip(f"the package {package} cannot be had")
    kernel_path = os.path.join(directory, package)
    with gzip.open(os.path.join(directory, "package", path)) as packed, open(kernel_path, "wb") as f:
        shutil.copyfileobj(packed, f)
    return kernel_path


@test
def xen():
    """The Xen hypervisor starts by multiboot on two CPUs, and runs Linux paravirtualized on top, to its demonstration."""
    with scratch() as d:
        hypervisor = multiboot_package("xen-hypervisor-4.17-amd64", "boot/xen-4.17-amd64.gz", d)
        modules = f"{kernel('amd64')} console=hvc0 panic=-1 lodge.demo,{initramfs('amd64')}"
        with Machine(hypervisor, modules, "console=com1 com1=115200 noreboot", memory="1G", cpus=2) as m:
            m.expect(r"\(XEN\) Brought up 2 CPUs", 60)
            m.expect(r"cpus +2", 120)
            m.expect(r"lease of 10\.0\.2\.15", 30)
            m.expect(r"Entering ACPI S5", 60)
            expect_equal(m.wait(30), 0, "exit status")


@test
def gnu_mach():
    """GNU Mach finds memory and devices, and misses its first server, which it is not given."""
    with scratch() as d:
        path = multiboot_package("gnumach-image-1.8-486", "boot/gnumach-1.8-486.gz", d)
        with Machine(path, None, "console=com0 root=device:hd0", memory="512M", net="none") as m:
            m.expect(r"RTC time is 20\d\d-", 30)
            m.expect(r"No bootstrap code loaded with the kernel", 30)


# ---- a whole Debian ----

def debian(cpus, copies):
    """Boot, log in, fetch and run work.sh (copies at once), compare with the host, power off."""
    image = script("debian-image.sh")
    with open(os.path.join(HERE, "work.sh"), "rb") as f:
        work = f.read()
    with scratch() as d:
        host = subprocess.run(["sh", os.path.join(HERE, "work.sh"), d], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                              env=dict(os.environ, PATH="/usr/sbin:/usr/bin:/sbin:/bin"), timeout=600)
        want = dict(l.split(" ", 1) for l in host.stdout.decode().splitlines() if " " in l)
    check(len(want) > 15, f"the host's own run of work.sh gave only {len(want)} results")
    big = pattern(1 << 20, "debian") * 20
    commands = b"""set -u
echo "RESULT system $(systemctl is-system-running --wait)"
echo "RESULT failed $(systemctl --failed --plain --no-legend | tr '\\n' ' ')"
echo "RESULT address $(ip -4 addr show scope global | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p')"
echo "RESULT fetch $(wget -q -O - http://10.0.2.2:$1/big | sha256sum | cut -d ' ' -f 1)"
wget -q -O /root/work.sh http://10.0.2.2:$1/work.sh
for copy in $(seq $2); do
	mkdir -p /root/work.$copy
	(DROP_CACHES=1 sh /root/work.sh /root/work.$copy >/root/results.$copy 2>/root/errors.$copy) &
done
wait
for copy in $(seq $2); do
	sed "s/^/WORK $copy /" /root/results.$copy
	tail -5 /root/errors.$copy
done
echo "RESULT done"
"""
    with Server({"/big": big, "/work.sh": work, "/commands": commands}) as server, \
            Machine(kernel(), initramfs(), "console=ttyS0 root=/dev/vda quiet systemd.show_status=1", cpus=cpus, memory="1G",
                    disks=((image, "snapshot"),)) as m:
        m.expect(r"login: $", 180)
        boot = time.monotonic() - m.started
        m.send("root\n")
        m.expect(r"root@\S+# ", 60)
        m.send(f"wget -q -O /root/commands http://10.0.2.2:{server.port}/commands && sh /root/commands {server.port} {copies}\n")
        m.expect(r"^RESULT done", 600)
        m.send("systemctl poweroff\n")
        m.ends_with(0, 90)
        m.no_kernel_complaints()
        r = results(m.text)
        got = {(l.split(" ", 3)[1], l.split(" ", 3)[2]): l.split(" ", 3)[3] for l in m.text.splitlines()
               if l.startswith("WORK ") and l.count(" ") > 2}
    expect_equal(r.get("system"), "running", f"systemd's state (failed: {r.get('failed')})")
    expect_equal(r.get("address"), "10.0.2.15", "address")
    expect_equal(r.get("fetch"), hashlib.sha256(big).hexdigest(), "file over the network")
    for copy in range(1, copies + 1):
        for name, value in want.items():
            expect_equal(got.get((str(copy), name)), value, f"{name} (copy {copy})")
    return f"login prompt after {boot:.1f} s"


@test
def debian_system():
    """systemd to a login prompt, network, gcc, python, sqlite, openssl, perl against the host's results, power-off."""
    return debian(2, 1)


@test
def debian_4_cpus():
    """The same work four times at once on four vCPUs."""
    return debian(4, 4)


@test
def debian_disk():
    """A Debian on a disk of its own: what one boot writes, the next finds; the file system stays clean."""
    image = script("debian-image.sh")
    with scratch() as d:
        disk = os.path.join(d, "disk")
        subprocess.run(["cp", "--sparse=always", image, disk], check=True)
        for boot in 1, 2:
            with Machine(kernel(), initramfs(), "console=ttyS0 root=/dev/vda quiet", cpus=1, memory="512M", disks=((disk, ""),)) as m:
                m.expect(r"login: $", 180)
                m.send("root\n")
                m.expect(r"root@\S+# ", 60)
                if boot == 1:
                    m.send("seq 1 1000000 >/root/numbers; cp -a /usr/lib/python3* /root/copy; (cd /root/copy; find . -type f | sort | xargs cat | md5sum >/root/sum); "
                           "sync; echo written-$((1 + 1))\n")
                    m.expect(r"^written-2", 120)
                else:
                    m.send("md5sum </root/numbers; (cd /root/copy; find . -type f | sort | xargs cat | md5sum) | cmp - /root/sum && echo same-$((1 + 1))\n")
                    m.expect(hashlib.md5(numbers(1000000)).hexdigest(), 60)
                    m.expect(r"^same-2", 60)
                m.send("systemctl poweroff\n")
                m.ends_with(0, 90)
                m.no_kernel_complaints()
        fsck = shutil.which("e2fsck", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
        p = subprocess.run([fsck, "-f", "-n", disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check(p.returncode == 0, "e2fsck: " + p.stdout.decode(errors="replace")[-300:])
