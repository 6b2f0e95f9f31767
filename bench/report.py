# SPDX-License-Identifier: MIT
"""From samples to medians, ratios, floors, and a table. The ratios are the result: see README.md."""
import math
import statistics

# (section, figure, what, limit): what is "lodge" (its value at most), "tcg/lodge" (Lodge better than TCG by at least),
# or "1-cpu" (the time on one virtual CPU divided by this one, at least).
FLOORS = [
    ("paths", "getppid", "lodge", 200), ("paths", "fault-anon", "lodge", 3500), ("paths", "fork+exec+wait", "lodge", 800e3),
    ("paths", "disk-64k-MB/s", "tcg/lodge", 2), ("paths", "disk-64k-direct-MB/s", "tcg/lodge", 2),
    ("paths", "tcp-to-host-MB/s", "tcg/lodge", 2), ("whole", "first-process", "lodge", 0.5),
    ("whole", "translation-ns", "lodge", 100), ("whole", "memory-MiB", "lodge", 16), ("whole", "build-2-cpus", "1-cpu", 1.7),
]
GEOMEAN_NATIVE, GEOMEAN_TCG, EACH_TCG = 2.2, 5, 2
HEADINGS = {"jobs": "Real programs: seconds", "paths": "Kernel paths: ns, or MB/s (more is better)",
            "code": "Much code: ns per guest instruction, first time and later", "whole": "The machine"}


def more_is_better(figure):
    return figure.endswith("MB/s")


def medians(samples):
    """{section: {figure: {machine: [samples]}}} to the same with medians, None where there is no sample."""
    result = {}
    for section, figures in samples.items():
        result[section] = {}
        for figure, machines in figures.items():
            result[section][figure] = {}
            for machine, values in machines.items():
                values = [v for v in values if v is not None]
                result[section][figure][machine] = statistics.median(values) if values else None
    return result


def slowdown(figure, values, slower, faster):
    """How many times as slow SLOWER is as FASTER."""
    a, b = values.get(slower), values.get(faster)
    if not a or not b:
        return None
    return b / a if more_is_better(figure) else a / b


def geomean(values):
    values = [v for v in values if v]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def geomeans(jobs):
    pairs = {"lodge/native": ("lodge", "native"), "tcg/native": ("tcg", "native"), "tcg/lodge": ("tcg", "lodge")}
    return {name: geomean([slowdown(f, v, *pair) for f, v in jobs.items()]) for name, pair in pairs.items()}


def floor(section, figure, values, whole):
    """(text, met) of a figure's floor; None when it has none or was not measured."""
    checks = [(what, limit) for s, f, what, limit in FLOORS if (s, f) == (section, figure)]
    if section == "jobs":
        checks = [("tcg/lodge", EACH_TCG)]
    for what, limit in checks:
        if what == "lodge":
            value = values.get("lodge")
            return (f"<= {limit:g}", value <= limit) if value is not None else None
        if what == "tcg/lodge":
            value = slowdown(figure, values, "tcg", "lodge")
            return (f">= {limit:g} x tcg", value >= limit) if value else None
        one = whole.get("build-1-cpus", {}).get("lodge")
        value = one / values["lodge"] if one and values.get("lodge") else None
        return (f">= {limit:g} x 1 cpu: {value:.2f}", value >= limit) if value else None
    return None


def number(value):
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}"


def ratio(value):
    return f"{value:.2f}" if value else "-"


def verdict(check):
    return f"{check[0]}  {'met' if check[1] else 'MISSED'}" if check else ""


def tables(result, machines, wrong):
    """The whole report as text, and how many floors were met and missed."""
    lines, met, missed = [], 0, 0

    def count(check):
        nonlocal met, missed
        if check:
            met, missed = met + check[1], missed + (not check[1])
        return verdict(check)

    for section, figures in result.items():
        if not figures:
            continue
        lines += ["", HEADINGS[section]]
        head = f"  {'':24}" + "".join(f"{m:>12}" for m in machines)
        lines.append(head + f"{'lodge/native':>14}{'tcg/native':>12}{'tcg/lodge':>12}  floor")
        for figure, values in figures.items():
            text = f"  {figure:24}" + "".join(f"{number(values.get(m)):>12}" for m in machines)
            text += f"{ratio(slowdown(figure, values, 'lodge', 'native')):>14}"
            text += f"{ratio(slowdown(figure, values, 'tcg', 'native')):>12}"
            text += f"{ratio(slowdown(figure, values, 'tcg', 'lodge')):>12}"
            text += "  " + count(floor(section, figure, values, result.get("whole", {})))
            if figure in wrong and section == "jobs":
                text += "  OUTPUT DIFFERS: " + ", ".join(sorted(wrong[figure]))
            lines.append(text.rstrip())
        if section == "jobs":
            means = geomeans(figures)
            lines.append(f"  {'geometric mean':24}" + 12 * len(machines) * " " + f"{ratio(means['lodge/native']):>14}"
                         f"{ratio(means['tcg/native']):>12}{ratio(means['tcg/lodge']):>12}")
            for name, limit, good in (("lodge/native", GEOMEAN_NATIVE, lambda v, l: v <= l),
                                      ("tcg/lodge", GEOMEAN_TCG, lambda v, l: v >= l)):
                if means[name]:
                    sign = "<=" if name == "lodge/native" else ">="
                    lines.append(f"    {name} {means[name]:.2f}: " + count((f"{sign} {limit:g}", good(means[name], limit))))
    lines += ["", f"floors: {met} met, {missed} missed"]
    return "\n".join(lines), met, missed
