# SPDX-License-Identifier: MIT
"""Figures of the whole machine: starting, scaling with virtual CPUs, idling, memory."""
import re
import sys
import time

from machines import Session, command, cpu_seconds

APPEND = "console=ttyS0 quiet panic=-1 "
IDLE_GUESTS = 10


def complain(machine, what, session):
    print(f"bench: {machine}: {what} failed; the end of its output:\n{session.text[-1500:]}", file=sys.stderr)


def first_process(machine, files):
    """Seconds from the start of the program to the first user-space process, which is a static program."""
    with Session(command(machine, files.kernel, files.boot_initrd, APPEND + "rdinit=/payload/quick")) as s:
        if not s.until("first-user", 120):
            complain(machine, "start", s)
            return None
        return s.marks["first-user"]


def login(machine, files):
    """Seconds from the start of the program to Debian's login prompt, systemd and all."""
    with Session(command(machine, files.kernel, files.initrd, APPEND + "root=/dev/vda", files.disk,
                         forward=(files.free_port(), 80))) as s:
        if not s.until(lambda t: re.search(r"login: *$", t.text), 300):
            complain(machine, "start to login prompt", s)
            return None
        return time.monotonic() - s.start


def scaling(machine, files, cpus):
    """Seconds of the project's build with as many compilers as virtual CPUs."""
    with Session(command(machine, files.kernel, files.initrd,
                         APPEND + "root=/dev/vda init=/run/payload/guest.sh bench.what=scaling", files.disk, cpus=cpus)) as s:
        if not s.until("scaling end", 600):
            complain(machine, f"parallel build on {cpus} virtual CPUs", s)
            return None
        return s.marks["scaling end"] - s.marks["scaling begin"]


def idle(machine, files, seconds=10):
    """CPU time that ten guests which do nothing use, in % of one CPU: all ten together."""
    sessions = []
    try:
        for n in range(IDLE_GUESTS):
            s = Session(command(machine, files.kernel, files.initrd,
                                APPEND + "root=/dev/vda init=/run/payload/guest.sh bench.what=idle", files.disk, memory="256M"))
            sessions.append(s)
            if not s.until("idle", 120):
                complain(machine, f"idle guest {n + 1}", s)
                return None
        time.sleep(3)
        before = sum(cpu_seconds(s.pid) for s in sessions)
        start = time.monotonic()
        time.sleep(seconds)
        return 100 * (sum(cpu_seconds(s.pid) for s in sessions) - before) / (time.monotonic() - start)
    finally:
        for s in sessions:
            s.stop()


def measure(machines, files, runs, say):
    """Yields (figure, machine, value), the machines one after the other in each run. What takes TCG minutes is measured
    once there."""
    for run in range(runs):
        for machine in machines:
            once = run == 0
            say(f"run {run + 1} of {runs}: {machine}: starting")
            yield "first-process", machine, first_process(machine, files)
            if run < 2:
                yield "login", machine, login(machine, files)
            for cpus in (1, 2, 4) if machine == "lodge" or once else ():
                say(f"run {run + 1} of {runs}: {machine}: parallel build on {cpus} virtual CPUs")
                yield f"build-{cpus}-cpus", machine, scaling(machine, files, cpus)
            if once:
                say(f"{machine}: {IDLE_GUESTS} idle guests")
                yield "idle-10", machine, idle(machine, files)
