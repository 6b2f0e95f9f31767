# SPDX-License-Identifier: MIT
"""The three that are compared: Lodge, QEMU's TCG, and the host itself in a chroot of the same files.

A Session is one run of one of them: a process whose output is read line by line. A line with MARK in it is noted with
the time when it came, by the host's clock. The names of machines are "lodge", "tcg" and "native".
"""
import os
import re
import select
import signal
import subprocess
import sys
import time

BENCH = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(BENCH)
LODGE = os.environ.get("LODGE", os.path.join(os.environ.get("LODGE_BUILD", os.path.join(ROOT, "build")), "lodge"))
QEMU = "qemu-system-x86_64"


def script(name, *arguments):
    """Run a script that prints the path of what it made."""
    result = subprocess.run([os.path.join(ROOT, "scripts", name), *arguments], stdout=subprocess.PIPE, text=True)
    if result.returncode:
        sys.exit(f"bench: scripts/{name} failed")
    return result.stdout.strip().splitlines()[-1]


def mebibytes(memory):
    return int(memory[:-1]) * {"M": 1, "G": 1024}[memory[-1]]


def command(machine, kernel, initrd, append, disk=None, cpus=1, memory="1G", forward=None, stats=False):
    """The command line of a guest. forward: (host port, guest port); None is no network card."""
    if machine == "lodge":
        net = f"user,hostfwd=tcp:{forward[0]}:{forward[1]}" if forward else "none"
        line = [LODGE, "run", "-e", "bt", "-c", str(cpus), "-m", memory, "-k", kernel, "-i", initrd, "-a", append, "--no-reboot",
                "--net", net]
        if disk:
            line += ["-d", f"{disk},snapshot"]
        return line + (["--stats"] if stats else [])
    line = [QEMU, "-M", "q35,memory-backend=ram", "-object", f"memory-backend-memfd,id=ram,size={memory}",
            "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(cpus), "-m", memory, "-kernel", kernel,
            "-initrd", initrd, "-append", append, "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"]
    if forward:
        line += ["-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{forward[0]}-:{forward[1]}"]
    else:
        line += ["-nic", "none"]
    return line + (["-drive", f"if=virtio,file={disk},format=raw,snapshot=on"] if disk else [])


class Session:
    """with Session(line) as s: s.until("idle"); s.send("go"); ..."""

    def __init__(self, line):
        self.marks, self.lines, self.text = {}, [], ""
        self.pending = b""
        self.closed = False
        self.start = time.monotonic()
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self.stop()

    @property
    def pid(self):
        return self.process.pid

    def read(self, timeout):
        """Takes in what comes within the timeout; False when nothing did."""
        if self.closed or not select.select([self.process.stdout], [], [], max(timeout, 0))[0]:
            return False
        data = os.read(self.process.stdout.fileno(), 65536)
        now = time.monotonic() - self.start
        if not data:
            self.closed = True
            return False
        self.text += data.decode(errors="replace")
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            line = line.decode(errors="replace").strip("\r\n")
            self.lines.append((now, line))
            if "MARK " in line:
                self.marks[line.split("MARK ", 1)[1].strip()] = now
        return True

    def until(self, condition, timeout):
        """Wait for a mark (its beginning), or for a function of this session to be true. False: it did not happen."""
        if not callable(condition):
            wanted = condition
            condition = lambda s: any(m.startswith(wanted) for m in s.marks)
        end = time.monotonic() + timeout
        while not condition(self):
            if self.closed or time.monotonic() > end:
                return False
            self.read(min(end - time.monotonic(), 1))
        return True

    def send(self, line):
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def finish(self, timeout):
        """Wait for the end by itself."""
        self.until(lambda s: s.closed, timeout)
        self.stop(5)

    def stop(self, patience=0):
        """Only this process and what it started: it leads a session of its own."""
        if self.process.poll() is None:
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                try:
                    os.killpg(self.process.pid, signal.SIGTERM)
                    self.process.wait(5)
                except subprocess.TimeoutExpired:
                    os.killpg(self.process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass

    def matching(self, word):
        """The words after WORD of each line that has it."""
        return [line.split(word + " ", 1)[1].split() for _, line in self.lines if word + " " in line]

    def clock_error(self):
        """How much faster the guest's clock went than the host's between the first and last CLOCK line."""
        seen = [(now, float(line.split("CLOCK ", 1)[1])) for now, line in self.lines
                if re.search(r"CLOCK [0-9.]+$", line)]
        if len(seen) < 2 or seen[-1][0] - seen[0][0] < 1:
            return None
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0]) - 1


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_use(pid, memory):
    """MiB resident: {"ram", "code", "rest"} from /proc/PID/smaps. Guest RAM is a memfd or the one anonymous mapping of
    exactly that size. Lodge's code cache is a memfd of that name, mapped twice (counted once); TCG's is the anonymous
    memory that can be written and executed. "largest" is what most of the rest is."""
    result = {"ram": 0.0, "code": 0.0, "rest": 0.0}
    others = {}
    # Pages of a memfd mapped twice count twice in Rss, and half each in Pss.
    kind = None
    header = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)$")
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as file:
        for line in file:
            match = header.match(line)
            if match:
                start, end, permissions, name = match.groups()
                size = int(end, 16) - int(start, 16)
                if not name and size == mebibytes(memory) << 20 or re.search("memfd:(lodge-ram|memory-backend-memfd)", name):
                    kind = "ram"
                elif re.search("memfd:.*(code|cache)", name) or (permissions.startswith("rwx") and not name):
                    kind = "code"
                else:
                    kind = "rest"
            elif line.startswith("Pss:"):
                resident = int(line.split()[1]) / 1024
                result[kind] += resident
                if kind == "rest":
                    what = name or f"anonymous, {size >> 10} KiB mapped"
                    others[what] = others.get(what, 0) + resident
    result["largest"] = dict(sorted(others.items(), key=lambda item: -item[1])[:10])
    return result
