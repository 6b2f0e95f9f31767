# SPDX-License-Identifier: MIT
"""bench/run --quick: Lodge beside QEMU's TCG, same kernel, initramfs and disk, one virtual CPU, one run after the other.

Five figures, each in seconds of the host's clock, the median of the runs:
  boot      start of the program to the first user-space process (a static program as rdinit)
  getppid   200,000 getppid system calls
  forkexec  100 times fork, exec of /bin/true, wait
  gzip      gzip -6 of 30 MB of programs and libraries
  gcc       gcc -O2 -c of a small C file, ten times
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile

from machines import BENCH, Session, command, script

FIGURES = ["boot", "getppid", "forkexec", "gzip", "gcc"]
MACHINES = ["lodge", "tcg"]
APPEND = "console=ttyS0 quiet panic=-1 "


def marks(machine, *arguments):
    with Session(command(machine, *arguments)) as s:
        s.finish(600)
        return s.marks, s.text


def measure(machine, kernel, boot_initrd, initrd, disk):
    """One run of every figure; returns {figure: seconds}."""
    found, text = marks(machine, kernel, boot_initrd, APPEND + "rdinit=/payload/quick")
    if "first-user" not in found:
        print(f"bench: {machine} does not boot:\n{text[-1500:]}", file=sys.stderr)
    results = {"boot": found.get("first-user")}
    found, text = marks(machine, kernel, initrd, APPEND + "root=/dev/vda init=/run/payload/quick.sh", disk)
    for name in FIGURES[1:]:
        begin, end = found.get(f"{name} begin"), found.get(f"{name} end 0")
        if begin is None or end is None:
            print(f"bench: {machine} does not finish {name}:\n{text[-1500:]}", file=sys.stderr)
        results[name] = end - begin if begin is not None and end is not None else None
    return results


def median(samples):
    samples = [s for s in samples if s is not None]
    return statistics.median(samples) if samples else None


def table(seconds):
    def cell(value, form):
        return format(value, form) if value is not None else "-"

    print(f"\n{'':10}" + "".join(f"{m + ' s':>12}" for m in MACHINES) + f"{'tcg/lodge':>12}")
    for figure in FIGURES:
        lodge, tcg = (seconds[m][figure] for m in MACHINES)
        ratio = tcg / lodge if tcg and lodge else None
        print(f"{figure:10}{cell(lodge, '.3f'):>12}{cell(tcg, '.3f'):>12}{cell(ratio, '.2f'):>12}")
    print()


def main(runs, json_file):
    kernel = os.path.join(script("guest-kernel.sh", "cloud-amd64"), "vmlinuz")
    disk = script("debian-image.sh")
    samples = {m: {f: [] for f in FIGURES} for m in MACHINES}
    with tempfile.TemporaryDirectory(prefix="lodge-bench-") as work:
        program = os.path.join(work, "quick")
        subprocess.run(["gcc", "-O2", "-static", "-o", program, os.path.join(BENCH, "quick.c")], check=True)
        boot_initrd = script("guest-initramfs.sh", "-o", os.path.join(work, "boot.cpio"), "-a", program)
        initrd = script("guest-initramfs.sh", "-o", os.path.join(work, "quick.cpio"), "-a", program,
                        "-a", os.path.join(BENCH, "quick.sh"), "-a", os.path.join(BENCH, "quick-compile.c"))
        for run in range(runs):
            for machine in MACHINES:
                print(f"bench: run {run + 1} of {runs}: {machine}", file=sys.stderr)
                for figure, value in measure(machine, kernel, boot_initrd, initrd, disk).items():
                    samples[machine][figure].append(value)
    seconds = {m: {f: median(samples[m][f]) for f in FIGURES} for m in MACHINES}
    table(seconds)
    if json_file:
        with open(json_file, "w", encoding="utf-8") as file:
            json.dump({"runs": runs, "seconds": seconds, "samples": samples}, file, indent=1)
            file.write("\n")
    return 0 if all(v is not None for m in MACHINES for v in seconds[m].values()) else 1
