"""Where compute threads may run: on a CPU each with --pin-threads, anywhere with --no-pin-threads or when there are more of them than CPUs."""
import os

from cluster import Cluster, main

CPUS = sorted(os.sched_getaffinity(0))


def tasks(pid):
    """[(name, CPUs)] of every thread, the main one first."""
    out = []
    for t in sorted(os.listdir("/proc/%d/task" % pid), key=int):
        with open("/proc/%d/task/%s/comm" % (pid, t)) as f:
            name = f.read().strip()
        out.append((name, sorted(os.sched_getaffinity(int(t)))))
    return out


def compute(pid):
    """The step loop's thread and the team's."""
    all_tasks = tasks(pid)
    return [all_tasks[0][1]] + [cpus for name, cpus in all_tasks[1:] if name == "titan-team"]


def others_are_free(pid):
    for name, cpus in tasks(pid)[1:]:
        assert name == "titan-team" or cpus == CPUS, (name, cpus)


def one_worker_with_a_thread_a_cpu():
    with Cluster(1, flags=["--threads", str(len(CPUS)), "--pin-threads"]) as c:
        assert sorted(compute(c.pids[1])) == [[n] for n in CPUS], tasks(c.pids[1])
        others_are_free(c.pids[1])
        assert all(cpus == CPUS for _, cpus in tasks(c.pids[0])), "the coordinator runs anywhere"
        assert "pinned to CPU" in c.text()
        status, _ = c.post("/v1/completions", {"prompt": "Once", "max_tokens": 4})
        assert status == 200


def workers_take_different_cpus():
    if len(CPUS) < 2:
        return
    half = len(CPUS) // 2
    with Cluster(2, flags=["--threads", str(half), "--pin-threads"]) as c:
        taken = compute(c.pids[1]) + compute(c.pids[2])
        assert len(taken) == 2 * half and all(len(t) == 1 for t in taken), taken
        assert len({t[0] for t in taken}) == 2 * half, taken


def not_when_told_so():
    with Cluster(1, flags=["--threads", str(len(CPUS)), "--no-pin-threads"]) as c:
        assert all(cpus == CPUS for _, cpus in tasks(c.pids[1])), tasks(c.pids[1])
        assert "pinned" not in c.text()


def not_with_more_threads_than_cpus():
    with Cluster(2, flags=["--threads", str(len(CPUS)), "--pin-threads"]) as c:
        assert all(cpus == CPUS for w in (1, 2) for _, cpus in tasks(c.pids[w]))
        assert "2 workers of %d threads are more than this host's %d CPUs" % (len(CPUS), len(CPUS)) in c.text()


if __name__ == "__main__":
    main([one_worker_with_a_thread_a_cpu, workers_take_different_cpus, not_when_told_so, not_with_more_threads_than_cpus])
