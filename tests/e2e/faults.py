"""What happens when processes die, stop, or are told to leave."""
import os
import signal
import threading
import time

from cluster import ROOT, Cluster, main, until

MOE = os.path.join(ROOT, "models", "titan-tiny-moe")
LONG = {"prompt": "Once upon a time", "max_tokens": 4000, "temperature": 0, "ignore_eos": True}


def begin(c, body=LONG):
    """A stream that has had its first token."""
    s = c.stream(body)
    events = s.events()
    next(events)
    return s, events


def drain_events(events):
    """Error text or None, and whether [DONE] came, of what is left of a stream."""
    error, done = None, False
    for e in events:
        if e == "[DONE]":
            done = True
        elif "error" in e:
            error = e["error"]["message"]
    return error, done


def a_killed_worker_is_told_to_clients_and_health():
    with Cluster(2, flags=["--tensor-parallel-size", "2"]) as c:
        s, events = begin(c)
        t0 = time.monotonic()
        c.kill(2, signal.SIGKILL)
        error, _ = drain_events(events)
        told = time.monotonic() - t0
        assert told < 2, "the client waited %.2f s" % told
        assert error and "rank 2" in error, error
        seen = time.monotonic()
        until("/health 503", 0.5, lambda: c.get("/health")[0] == 503)
        status, body = c.get("/health")
        assert status == 503 and "rank 2" in body["message"], (status, body)
        last = seen
        try:
            while c.get("/health")[0] == 503:  # until the server leaves
                last = time.monotonic()
                time.sleep(0.02)
        except OSError:
            pass
        assert last - t0 > 1, "/health said 503 for %.2f s only" % (last - t0)
        assert c.wait(10) == 4
        end = c.end()
        assert end["exit"] == 4 and end["rank"] == 2 and "rank 2" in end["message"], end
        assert not c.ranks()
        return "client told after %.0f ms" % (told * 1000)


def an_idle_worker_that_dies_is_noticed():
    with Cluster(2) as c:
        c.kill(1, signal.SIGKILL)
        assert c.wait(10) == 4
        assert c.end()["rank"] == 1


def no_rank_outlives_its_coordinator():
    with Cluster(2, flags=["--tensor-parallel-size", "2"]) as c:
        s, _ = begin(c)
        c.kill(0, signal.SIGKILL)
        t0 = time.monotonic()
        until("all ranks gone", 2, lambda: not c.ranks())
        took = time.monotonic() - t0
        assert c.wait(10) == 4
        s.close()
        return "%.0f ms" % (took * 1000)


def sigterm_lets_running_requests_finish():
    with Cluster(2) as c:
        s, events = begin(c, dict(LONG, max_tokens=300))
        result = {}

        def read():
            result["error"], result["done"] = drain_events(events)

        t = threading.Thread(target=read)
        t.start()
        c.up.send_signal(signal.SIGTERM)
        code = c.wait(40)
        t.join(5)
        assert code == 0, code
        assert result == {"error": None, "done": True}, result
        assert c.end()["exit"] == 0


def a_drain_has_an_end():
    with Cluster(1, flags=["--shutdown-timeout", "0.5"]) as c:
        s, events = begin(c, dict(LONG, max_tokens=4000))
        t0 = time.monotonic()
        code = c.stop(15)
        assert code == 0, code
        s.close()
        return "%.1f s" % (time.monotonic() - t0)


def a_stopped_worker_is_a_hang():
    with Cluster(2, flags=["--tensor-parallel-size", "2"]) as c:
        s, events = begin(c)
        t0 = time.monotonic()
        c.kill(1, signal.SIGSTOP)
        error, _ = drain_events(events)
        told = time.monotonic() - t0
        assert error and "rank 1" in error, error
        assert told < 4, told
        assert c.wait(20) == 4
        assert not c.ranks()
        return "client told after %.1f s" % told


def the_others_name_a_worker_that_is_lost_among_experts():
    """Three workers in lockstep: rank 3's rows and results are missing in the middle of a layer, its window stays mapped."""
    took = []
    for sig, limit in ((signal.SIGKILL, 2), (signal.SIGSTOP, 4)):
        with Cluster(3, MOE) as c:
            s, events = begin(c, dict(LONG, max_tokens=200))
            t0 = time.monotonic()
            c.kill(3, sig)
            error, _ = drain_events(events)
            took.append(time.monotonic() - t0)
            assert error and "rank 3" in error, error
            assert took[-1] < limit, took
            assert c.wait(20) == 4
            assert not c.ranks()
            assert c.end()["rank"] == 3, c.end()
            for rank in (1, 2):
                named = [x for x in c.text().splitlines() if "rank=%d " % rank in x and ("rank 3" in x or "peer=2" in x)]
                assert named, c.text()
    return "killed: told after %.0f ms; stopped: after %.1f s" % (took[0] * 1000, took[1])


def a_killed_launcher_takes_all_ranks_along():
    with Cluster(2) as c:
        mpirun = None
        for pid in c.pids.values():
            with open("/proc/%d/stat" % pid) as f:
                mpirun = int(f.read().rsplit(")", 1)[1].split()[1])
        os.kill(mpirun, signal.SIGKILL)
        until("all ranks gone", 2, lambda: not c.ranks())
        assert c.wait(10) == 4


if __name__ == "__main__":
    main([a_killed_worker_is_told_to_clients_and_health, an_idle_worker_that_dies_is_noticed, no_rank_outlives_its_coordinator, sigterm_lets_running_requests_finish, a_drain_has_an_end,
          a_stopped_worker_is_a_hang, the_others_name_a_worker_that_is_lost_among_experts, a_killed_launcher_takes_all_ranks_along])
