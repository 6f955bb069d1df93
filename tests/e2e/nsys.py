"""launch/nsys.sh with a stand-in for nsys: every rank is profiled into a report of its own, and serves as it does without."""
import json
import os
import stat
import subprocess
import tempfile

from cluster import DENSE, ROOT, Cluster, main

STAND_IN = """#!/bin/bash
printf '%s\\n' "$@" >"$NSYS_SEEN.$OMPI_COMM_WORLD_RANK"
while [ "$1" != "$TITAN_REAL_SERVE" ]; do shift; done
exec "$@"
"""


class Profiled(Cluster):
    def __init__(self, folder, workers):
        serve, nsys = os.path.abspath(os.environ["TITAN_SERVE"]), os.path.join(folder, "nsys")
        with open(nsys, "w") as f:
            f.write(STAND_IN)
        os.chmod(nsys, os.stat(nsys).st_mode | stat.S_IXUSR)
        super().__init__(workers, env={"TITAN_NSYS": nsys, "TITAN_SERVE": serve, "TITAN_REAL_SERVE": serve, "NSYS_SEEN": os.path.join(folder, "seen")})
        self.out = os.path.join(folder, "out")
        self.cmd = [os.path.join(ROOT, "launch", "nsys.sh"), self.out] + self.cmd[1:]


def every_rank_has_its_report_and_serves():
    with tempfile.TemporaryDirectory() as d:
        with Profiled(d, 2) as c:
            c.complete("Once upon a time")
            assert c.stop() == 0
            for rank in range(3):
                with open(os.path.join(d, "seen.%d" % rank)) as f:
                    words = f.read().splitlines()
                assert words[0] == "profile" and words[words.index("--output") + 1] == os.path.join(c.out, "rank-%d" % rank), words
                assert "nvtx" in words[words.index("--trace") + 1].split(",") and "--cuda-graph-trace=node" in words, words
                assert words[words.index("--kill") + 1] == "none", words  # the end of the recording is not the server's
            with open(os.path.join(c.out, "trace.json")) as f:
                assert {e["pid"] for e in json.load(f)} == {0, 1, 2}


def it_says_what_is_missing():
    env = dict(os.environ, TITAN_NSYS="/no/such/nsys")
    with tempfile.TemporaryDirectory() as d:
        r = subprocess.run([os.path.join(ROOT, "launch", "nsys.sh"), os.path.join(d, "out"), "--model", DENSE], env=env, capture_output=True, text=True, timeout=20)
        assert r.returncode == 2 and "no nsys" in r.stderr, r
    r = subprocess.run([os.path.join(ROOT, "launch", "nsys.sh")], env=env, capture_output=True, text=True, timeout=20)
    assert r.returncode == 2 and "OUT" in r.stdout, r


main([every_rank_has_its_report_and_serves, it_says_what_is_missing])
