# SPDX-License-Identifier: MIT
"""A guest under test: one process with its serial console, started as `lodge run` or, with ENGINE=qemu, as QEMU.

QEMU is only a stand-in to try the tests themselves; what counts is lodge.
"""
import os
import re
import selectors
import signal
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ENGINE = os.environ.get("ENGINE", "bt")
BUILD = os.environ.get("LODGE_BUILD", os.path.join(ROOT, "build"))
LODGE = os.path.abspath(os.environ.get("LODGE", os.path.join(BUILD, "lodge")))
# Machines busy with other work need more patience.
FACTOR = float(os.environ.get("TIMEOUT_FACTOR", "1"))


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def script(name, *arguments):
    """The output of one of scripts/, whose messages go to standard error."""
    p = subprocess.run([os.path.join(ROOT, "scripts", name), *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    if p.returncode:
        raise Failure(f"scripts/{name} {' '.join(arguments)} ended with status {p.returncode}")
    return p.stdout.decode().strip()


class Machine:
    """with Machine(kernel=..., ...) as m: m.expect(...); m.send(...); m.wait()"""

    def __init__(self, kernel, initrd=None, append="", cpus=1, memory="512M", disks=(), net="user", forwards=(), reboot=False,
                 devices=(), options=()):
        """disks: (path, "" | "readonly" | "snapshot"); forwards: (host port, guest port)."""
        self.text = self.pending = ""
        self.position = 0
        self.process = None
        if ENGINE == "qemu":
            cmd = ["qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-display", "none", "-serial",
                   "stdio", "-monitor", "none", "-smp", str(cpus), "-m", memory, "-kernel", kernel, "-device", "virtio-rng-pci"]
            if initrd:
                cmd += ["-initrd", initrd]
            if append:
                cmd += ["-append", append]
            for i, (path, option) in enumerate(disks):
                extra = {"": "", "readonly": ",readonly=on", "snapshot": ",snapshot=on"}[option]
                cmd += ["-drive", f"file={path},format=raw,if=none,id=d{i}{extra}", "-device", f"virtio-blk-pci,drive=d{i}"]
            if net == "user":
                forward = "".join(f",hostfwd=tcp:127.0.0.1:{h}-:{g}" for h, g in forwards)
                cmd += ["-netdev", "user,id=n0" + forward, "-device", "virtio-net-pci,netdev=n0"]
            else:
                cmd += ["-nic", "none"]
            if not reboot:
                cmd += ["-no-reboot"]
            for d in devices:
                cmd += ["-device", d + (",iobase=0xf4,iosize=4" if d == "isa-debug-exit" else "")]
        else:
            cmd = [LODGE, "run", "-e", ENGINE, "-c", str(cpus), "-m", memory, "-k", kernel, "--console", "stdio"]
            if initrd:
                cmd += ["-i", initrd]
            if append:
                cmd += ["-a", append]
            for path, option in disks:
                cmd += ["-d", path + ("," + option if option else "")]
            cmd += ["-N", net + "".join(f",hostfwd=tcp:{h}:{g}" for h, g in forwards)]
            if not reboot:
                cmd += ["--no-reboot"]
            for d in devices:
                cmd += ["--device", d]
            cmd += list(options)
        self.command = cmd

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        bufsize=0)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        self.started = time.monotonic()
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process.stdin.close()

    def read(self, timeout):
        """Take what there is, waiting up to timeout; False at the end of file or when nothing came."""
        if not self.selector.select(timeout):
            return False
        data = self.process.stdout.read(65536)
        if not data:
            return False
        # Without carriage returns and terminal control: cursor movements become line ends, the rest goes.
        raw = self.pending + data.decode("utf-8", "replace").replace("\r", "")
        cut = raw.rfind("\x1b")
        self.pending = ""
        if cut >= 0 and not re.match(r"\x1b(\[[0-9;?]*[A-Za-z]|[^\[])", raw[cut:]):
            raw, self.pending = raw[:cut], raw[cut:]
        raw = re.sub(r"\x1b\[[0-9;]*H", "\n", raw)
        self.text += re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[^\[])", "", raw)
        return True

    def tail(self, lines=4):
        rest = [l for l in self.text.split("\n") if l.strip()]
        return " | ".join(rest[-lines:])[-500:] or "nothing was printed"

    def expect(self, pattern, timeout):
        """Wait until the console shows pattern after what was matched before; returns the match."""
        end = time.monotonic() + timeout * FACTOR
        expression = re.compile(pattern, re.M)
        while True:
            match = expression.search(self.text, self.position)
            if match:
                self.position = match.end()
                return match
            left = end - time.monotonic()
            if left <= 0:
                raise Failure(f"no '{pattern}' within {timeout * FACTOR:g} s; last: {self.tail()}")
            if not self.read(min(left, 1)) and self.process.poll() is not None:
                while self.read(0):
                    pass
                if expression.search(self.text, self.position):
                    continue
                raise Failure(f"ended with status {self.process.returncode} before '{pattern}'; last: {self.tail()}")

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait(self, timeout=30):
        """Wait for the end; returns the exit status."""
        end = time.monotonic() + timeout * FACTOR
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise Failure(f"still running after {timeout * FACTOR:g} s; last: {self.tail()}")
            if not self.read(0.2):
                time.sleep(0.02)
        while self.read(0):
            pass
        return self.process.returncode

    def ends_with(self, status, timeout=30):
        got = self.wait(timeout)
        check(got == status, f"exit status {got}, should be {status}; last: {self.tail()}")

    def cpu_seconds(self):
        """CPU time of all threads so far."""
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def no_kernel_complaints(self):
        for line in self.text.split("\n"):
            if re.search(r"(BUG:|WARNING: CPU|Oops|soft lockup|rcu.*stall|general protection fault|unable to handle|"
                         r"Kernel panic|hung task|nobody cared|clocksource.*unstable|traps: )", line):
                raise Failure("the guest's kernel complains: " + line.strip()[:200])

    def died(self):
        return self.process.poll() is not None


def terminate(machine):
    machine.process.send_signal(signal.SIGTERM)
    return machine.wait(20)
