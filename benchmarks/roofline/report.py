#!/usr/bin/env python3
"""The GPU's roofline and what every lab reaches under it, as docs/reports/kernels-<gpu>.md and .svg.

  benchmarks/roofline/report.py [--bin build/cuda/bin] [--json DIR] [--out docs/reports] [--quick]

Runs roofline_gpu (the roofs) and each lab found in --bin with --json, then writes the report. --json DIR keeps the labs' files there; files that are
there already are used as they are, so that a report can be written where there is no GPU. Standard library only.
"""
import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ROOFS = "roofline_gpu"
LAB_SECONDS = 300


def labs():
    """roofline_gpu first, then every CUDA lab of the tree; lab_gpu and lab_floor are their harness."""
    names = sorted(p.stem for p in (ROOT / "benchmarks/kernels").glob("lab_*.cu") if p.stem not in ("lab_gpu", "lab_floor"))
    return [ROOFS] + names + ["ladder"]


def measure(bin_dir, json_dir, quick):
    """Runs what has no file yet; returns {lab: its JSON}."""
    found = {}
    for name in labs():
        path = json_dir / (name + ".json")
        program = bin_dir / name
        if not path.exists() and program.exists():
            print(f"{name} ..", flush=True)
            command = [str(program), "--json", str(path)] + (["--quick"] if quick else [])
            try:
                run = subprocess.run(command, timeout=LAB_SECONDS, stdout=subprocess.DEVNULL)
                if run.returncode:
                    print(f"{name}: exit status {run.returncode}: a check failed, or there is no GPU", file=sys.stderr)
            except subprocess.TimeoutExpired:
                print(f"{name}: no end after {LAB_SECONDS} s", file=sys.stderr)
        if not path.exists():
            continue
        try:
            found[name] = json.loads(path.read_text())
        except ValueError as e:
            print(f"{path}: {e}: left out", file=sys.stderr)
    return found


def roofs_of(found):
    """{'copy': TB/s, 'bf16': TFLOP/s, 'fp8': .., 'fp8 block128': ..}: the best of each."""
    head = found[ROOFS]
    roofs = {"copy": head["copy_gbs"] / 1e3, "empty": head["empty_us"]}
    for row in head["rows"]:
        roofs[row["variant"]] = max(roofs.get(row["variant"], 0.0), row["tflops"])
    return roofs


class Point:
    """One row of one lab: its work, its bytes, the roof above it."""

    def __init__(self, lab, row, roofs):
        self.lab, self.row, self.us = lab, row, row["us"]
        self.flop = row["tflops"] * self.us * 1e6
        self.bytes = row["gbs"] * self.us * 1e3
        words = f"{lab} {row['op']} {row['variant']}".lower()
        self.type = "fp8" if "fp8" in words or "e4m3" in words else "bf16"
        peak = roofs.get(self.type, 0.0)
        memory_us = self.bytes / roofs["copy"] * 1e-6
        compute_us = self.flop / peak * 1e-6 if peak else 0.0
        self.limit_us = max(memory_us, compute_us)
        self.share = 100.0 * self.limit_us / self.us
        if self.limit_us < 2 * roofs["empty"]:
            self.bound = "launch"
        else:
            self.bound = "memory" if memory_us >= compute_us else "compute"

    def intensity(self):
        return self.flop / self.bytes if self.flop and self.bytes else None


# ---- the picture ----------------------------------------------------------------------------------------------------------------------------------

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#5b5b5b", "#8c564b", "#17becf"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 560, 70, 230, 40, 60
X_DECADES, Y_DECADES = (-2, 4), (-2, 4)  # FLOP a byte; TFLOP/s


def at(x, y):
    """Log-log data -> pixels."""
    w, h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    fx = (math.log10(x) - X_DECADES[0]) / (X_DECADES[1] - X_DECADES[0])
    fy = (math.log10(y) - Y_DECADES[0]) / (Y_DECADES[1] - Y_DECADES[0])
    return LEFT + w * min(max(fx, 0.0), 1.0), HEIGHT - BOTTOM - h * min(max(fy, 0.0), 1.0)


def power(d):
    return f"{10 ** d:g}" if d >= 0 else f"{10 ** d:.{-d}f}"


def text(x, y, s, size=12, anchor="middle", colour="#222", more=""):
    s = s.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" {more}>{s}</text>'


def svg(gpu, roofs, points):
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
           text((LEFT + WIDTH - RIGHT) / 2, 24, f"{gpu}: every lab under the measured roofs", 15)]
    for d in range(X_DECADES[0], X_DECADES[1] + 1):
        x, y0 = at(10 ** d, 10 ** Y_DECADES[0])
        out.append(f'<path d="M{x:.0f} {y0:.0f}V{TOP}" stroke="#e4e4e4"/>' + text(x, y0 + 18, power(d)))
    for d in range(Y_DECADES[0], Y_DECADES[1] + 1):
        x0, y = at(10 ** X_DECADES[0], 10 ** d)
        out.append(f'<path d="M{x0:.0f} {y:.0f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>' + text(x0 - 8, y + 4, power(d), anchor="end"))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "FLOP a byte of device memory"))
    out.append(text(20, (TOP + HEIGHT - BOTTOM) / 2, "TFLOP/s", more=f'transform="rotate(-90 20 {(TOP + HEIGHT - BOTTOM) / 2:.0f})"'))
    low = 10 ** X_DECADES[0]
    top = max(roofs.get("bf16", 0.0), roofs.get("fp8", 0.0)) or 1000.0
    x0, y0 = at(low, low * roofs["copy"])
    x1, y1 = at(top / roofs["copy"], top)
    out.append(f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="#222" stroke-width="1.5" fill="none"/>')
    tx, ty = at(0.02, 0.02 * roofs["copy"] * 1.7)
    angle = -math.degrees(math.atan2(y0 - y1, x1 - x0))
    out.append(text(tx, ty, f"copy {roofs['copy']:.2f} TB/s", anchor="start", more=f'transform="rotate({angle:.1f} {tx:.0f} {ty:.0f})"'))
    for name in ("bf16", "fp8"):
        if name not in roofs:
            continue
        x, y = at(roofs[name] / roofs["copy"], roofs[name])
        out.append(f'<path d="M{x:.1f} {y:.1f}H{WIDTH - RIGHT}" stroke="#222" stroke-width="1.5"/>')
        out.append(text(WIDTH - RIGHT - 4, y - 5, f"{name} {roofs[name]:.0f} TFLOP/s", 11, "end"))
    drawn = [name for name in dict.fromkeys(p.lab for p in points) if any(p.lab == name and p.intensity() for p in points)]
    for i, name in enumerate(drawn):
        colour = COLOURS[i % len(COLOURS)]
        for p in points:
            if p.lab != name or not p.intensity():
                continue
            x, y = at(p.intensity(), p.row["tflops"])
            title = f"{p.row['variant']} m {p.row['m']} n {p.row['n']} k {p.row['k']}: {p.us:.1f} us, {p.share:.0f}% of its limit"
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}" fill-opacity="0.7"><title>{title}</title></circle>')
        y = TOP + 14 + 20 * i
        out.append(f'<circle cx="{WIDTH - RIGHT + 20}" cy="{y - 4}" r="5" fill="{colour}"/>' + text(WIDTH - RIGHT + 32, y, name, anchor="start"))
    out.append("</svg>")
    return "\n".join(out) + "\n"


# ---- the report -----------------------------------------------------------------------------------------------------------------------------------

def next_steps():
    """{lab: text} of next_steps.txt: a lab's name, a colon, the text."""
    steps = {}
    for line in (HERE / "next_steps.txt").read_text().splitlines():
        name, colon, what = line.partition(":")
        if colon and not line.startswith("#"):
            steps[name.strip()] = what.strip()
    return steps


def number(x):
    return f"{x:.0f}" if x >= 10 else f"{x:.2g}"


def table(points):
    floors = any("floor_us" in p.row for p in points)
    lines = ["| what | m | n | k | us | TFLOP/s | GB/s | bound | % of limit | peer, us | ratio |" + (" floor, us | % of floor |" if floors else ""),
             "|---|---|---|---|---|---|---|---|---|---|---|" + ("---|---|" if floors else "")]
    for p in points:
        r = p.row
        floor = ""
        if floors:
            floor = f" {r['floor_us']:.1f} | {100 * r['floor_us'] / p.us:.0f} |" if "floor_us" in r else " | |"
        peer = f"{r['peer']} {r['peer_us']:.1f} | {r['ratio']:.2f}" if "peer" in r else "| "
        lines.append(f"| {r['variant']} | {r['m']} | {r['n']} | {r['k'] or ''} | {p.us:.1f} | {number(r['tflops'])} | {r['gbs']:.0f} | {p.bound} "
                     f"| {p.share:.0f} | {peer} |{floor}")
    return lines


def summary(points, found, roofs):
    lines = ["| lab | rows | launch-, memory-, compute-bound | median % of limit, those with work for a launch | checks | next step |", "|---|---|---|---|---|---|"]
    steps = next_steps()
    for name in dict.fromkeys(p.lab for p in points):
        mine = [p for p in points if p.lab == name]
        count = [sum(p.bound == b for p in mine) for b in ("launch", "memory", "compute")]
        large = sorted(p.share for p in mine if p.bound != "launch")
        middle = f"{large[len(large) // 2]:.0f}" if large else "-"
        failed = found[name].get("failed", 0)
        lines.append(f"| {name} | {len(mine)} | {count[0]}, {count[1]}, {count[2]} | {middle} | {f'{failed} failed' if failed else 'passed'} "
                     f"| {steps.get(name, '')} |")
    return lines


def report(gpu, slug, roofs, points, found):
    out = [f"# Kernels on the {gpu}", "",
           "Written by `benchmarks/roofline/report.py`: medians with a cold L2 and random data, one run.", "",
           "| roof | measured |", "|---|---|",
           f"| device-to-device copy | {roofs['copy']:.3f} TB/s |", f"| empty kernel between two events | {roofs['empty']:.2f} us |"]
    out += [f"| {name}, the best cuBLASLt product | {roofs[name]:.0f} TFLOP/s |" for name in ("bf16", "fp8", "fp8 block128") if name in roofs]
    out += ["", f"![roofline](kernels-{slug}.svg)", "",
            "A row's limit is the larger of bytes / copy and FLOP / the roof of its type (bytes: each operand once). % of limit = limit / time. A row whose",
            "limit is below two empty kernels is bound by the launch: there the share says nothing, and the way on is a graph, a fused op or more rows. floor: the time in which the best",
            "plain read of the weights ends in the same harness (lab_floor.h), alone or, for rows that stand in a chain or row of launches, as one of a chain.",
            ""]
    out += summary(points, found, roofs)
    for name in dict.fromkeys(p.lab for p in points):
        out += ["", f"## {name}", ""] + table([p for p in points if p.lab == name])
    return "\n".join(out) + "\n"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bin", type=Path, default=ROOT / "build/cuda/bin")
    ap.add_argument("--json", type=Path, default=ROOT / "build/roofline")
    ap.add_argument("--out", type=Path, default=ROOT / "docs/reports")
    ap.add_argument("--quick", action="store_true")
    a = ap.parse_args()
    os.makedirs(a.json, exist_ok=True)
    found = measure(a.bin, a.json, a.quick)
    if ROOFS not in found:
        sys.exit(f"no {ROOFS} in {a.bin} and no {ROOFS}.json in {a.json}: build the cuda preset and run this on a GPU host")
    gpu = found[ROOFS]["gpu"]
    slug = gpu.lower().replace("nvidia", "").split()[0]
    roofs = roofs_of(found)
    points = [Point(name, row, roofs) for name, f in found.items() for row in f["rows"] if row["us"] > 0]
    os.makedirs(a.out, exist_ok=True)
    (a.out / f"kernels-{slug}.svg").write_text(svg(gpu, roofs, points))
    (a.out / f"kernels-{slug}.md").write_text(report(gpu, slug, roofs, points, found))
    print(f"{a.out}/kernels-{slug}.md: {len(points)} rows of {len(found)} labs")


if __name__ == "__main__":
    main()
