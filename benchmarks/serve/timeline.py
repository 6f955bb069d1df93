#!/usr/bin/env python3
"""Draws some steps of a --trace file as an SVG: one band a rank, one row a track, a colour a piece.

    launch/up.sh --workers 2 --model models/titan-tiny-moe --trace trace.json     (load it, then end it)
    benchmarks/serve/timeline.py trace.json docs/timeline.svg [--step N] [--steps K]
"""
import argparse
import html
import json

COLOURS = {"attention": "#4c78a8", "ffn": "#72b7b2", "route": "#b279a2", "dispatch": "#e45756", "shared expert": "#eeca3b", "experts": "#54a24b",
           "combine": "#f58518", "all-reduce": "#ff9da6", "step": "#d0d0d0"}
WIDTH, ROW, LEFT, TOP = 1100, 26, 150, 46


def spans(path):
    with open(path) as f:
        events = json.load(f)
    events = events["traceEvents"] if isinstance(events, dict) else events
    names = {e["pid"]: e["args"]["name"] for e in events if e.get("ph") == "M" and e["name"] == "process_name"}
    return [e for e in events if e.get("ph") == "X"], names


def pick(events, step, n):
    """The workers' spans of steps [step, step + n); without a step: the middle one. (A step's plan was made while the step before ran.)"""
    steps = sorted({e["args"]["step"] for e in events if e["name"] == "step" and "step" in e.get("args", {})})
    if step is None:
        step = steps[len(steps) // 2]
    return [e for e in events if e["name"] != "plan" and step <= e.get("args", {}).get("step", -1) < step + n], step


def draw(events, names, step, n):
    t0 = min(e["ts"] for e in events)
    t1 = max(e["ts"] + e["dur"] for e in events)
    scale = (WIDTH - LEFT - 20) / (t1 - t0)
    rows = sorted({(e["pid"], e["tid"]) for e in events})
    height = TOP + ROW * len(rows) + 60
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
           f'<text x="10" y="20" font-size="14">steps {step}..{step + n - 1}: {t1 - t0:.0f} us on {len({p for p, _ in rows})} ranks, one clock</text>']
    for i, (pid, tid) in enumerate(rows):
        y = TOP + i * ROW
        out.append(f'<text x="10" y="{y + 16}">{html.escape(names.get(pid, f"rank {pid}"))}, {"step" if tid == 0 else f"lane {tid - 1}"}</text>')
        for e in sorted((e for e in events if (e["pid"], e["tid"]) == (pid, tid)), key=lambda e: -e["dur"]):
            x, w = LEFT + (e["ts"] - t0) * scale, max(e["dur"] * scale, 0.6)
            layer = e.get("args", {}).get("layer")
            title = f'{e["name"]}{"" if layer is None else f", layer {layer}"}: {e["dur"]:.0f} us'
            out.append(f'<rect x="{x:.1f}" y="{y}" width="{w:.1f}" height="{ROW - 6}" fill="{COLOURS.get(e["name"], "#bab0ac")}"><title>{html.escape(title)}</title></rect>')
    x, y = LEFT, TOP + ROW * len(rows) + 24
    for name in [c for c in COLOURS if any(e["name"] == c for e in events)]:
        out.append(f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{COLOURS[name]}"/><text x="{x + 16}" y="{y}">{name}</text>')
        x += 34 + 7 * len(name)
    out.append("</svg>")
    return "\n".join(out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("trace")
    p.add_argument("svg")
    p.add_argument("--step", type=int)
    p.add_argument("--steps", type=int, default=1)
    a = p.parse_args()
    events, names = spans(a.trace)
    chosen, step = pick(events, a.step, a.steps)
    if not chosen:
        raise SystemExit(f"timeline: {a.trace} has no spans of step {step}")
    with open(a.svg, "w") as f:
        f.write(draw(chosen, names, step, a.steps) + "\n")


if __name__ == "__main__":
    main()
