#!/bin/bash
# How long a cluster takes to serve, what it costs when idle, and what the coordinator weighs.
#
#   benchmarks/serve/startup.sh [--workers N] [--model PATH] [--json FILE]
#
# start-up: from launching up.sh to /health 200, median of 5 (mpirun's own part is some 0.2 s of it). idle CPU: all processes of the cluster, over 10 s.
set -eu
exec python3 - "$(cd "$(dirname "$0")/../.." && pwd)" "$@" <<'P'
import json, os, statistics, sys, time

root, args = sys.argv[1], sys.argv[2:]
sys.path.insert(0, os.path.join(root, "tests", "e2e"))
from cluster import DENSE, Cluster, processes, until

opt = dict(zip(args[::2], args[1::2]))
workers, model = int(opt.get("--workers", 2)), opt.get("--model", DENSE)


def cpu_s(sessions):
    """CPU seconds of every process of the sessions."""
    total = 0
    for pid, session, _ in list(processes()):
        if session in sessions:
            try:
                with open("/proc/%d/stat" % pid) as f:
                    v = f.read().rsplit(")", 1)[1].split()
                total += int(v[11]) + int(v[12])
            except OSError:
                pass
    return total / os.sysconf("SC_CLK_TCK")


def rss_mib(pid):
    with open("/proc/%d/statm" % pid) as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


starts = []
for i in range(5):
    c = Cluster(workers, model, ["--log-level", "warn"])
    t0 = time.monotonic()
    with c:
        until("health", 60, lambda: c.get("/health")[0] == 200, 0.005)
        starts.append(time.monotonic() - t0)
        if i == 4:
            time.sleep(1)
            sessions, a = c.sessions(), time.monotonic()
            before = cpu_s(sessions)
            time.sleep(10)
            idle = (cpu_s(sessions) - before) / (time.monotonic() - a) * 100
            rss = rss_mib(c.ranks()[0])
        c.stop()
row = {"model": os.path.basename(model), "workers": workers, "startup_s": round(statistics.median(starts), 3), "startup_all_s": [round(s, 3) for s in starts],
       "idle_cpu_percent": round(idle, 2), "coordinator_rss_mib": round(rss, 1)}
print("%-20s %8s %12s %12s %18s" % ("model", "workers", "start-up s", "idle CPU %", "coordinator MiB"))
print("%-20s %8d %12.2f %12.2f %18.1f" % (row["model"], workers, row["startup_s"], row["idle_cpu_percent"], row["coordinator_rss_mib"]))
if "--json" in opt:
    with open(opt["--json"], "w") as f:
        json.dump(row, f)
P
