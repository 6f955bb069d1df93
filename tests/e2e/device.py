"""--device on a host without a usable GPU: cuda is refused in one clear line, auto goes on with the CPU and says why."""
import os
import subprocess
import sys

from cluster import DENSE, Cluster, main

SERVE = os.environ.get("TITAN_SERVE", "")
OLD_DRIVER = os.environ.get("TITAN_OLD_DRIVER")  # a folder with a libcuda.so.1 of CUDA 11.0 (tests/cuda/old_driver.c)


def plan(*flags, env=None):
    r = subprocess.run([SERVE, "--model", DENSE, "--plan", *flags], env=dict(os.environ, **(env or {})), capture_output=True, text=True, timeout=30)
    return r.returncode, r.stderr


def refused(why, env=None):
    with_cluster = Cluster(1, flags=["--device", "cuda"], env=env)
    try:
        with_cluster.launch()
        assert with_cluster.wait(30) == 2, with_cluster.text()
        lines = [line for line in with_cluster.text().splitlines() if "--device cuda" in line]
        assert len(lines) == 1 and len(with_cluster.text().splitlines()) == 1, with_cluster.text()
        assert why in lines[0] and "use --device cpu" in lines[0], lines[0]
        assert with_cluster.end()["exit"] == 2 and not with_cluster.ranks()
        return lines[0]
    finally:
        with_cluster.__exit__(None, None, None)


def goes_on(why, env=None):
    with Cluster(1, flags=["--device", "auto"], env=env) as c:
        text = c.complete("Once upon a time")["choices"][0]["text"]
        assert text, "no text"
        lines = [line for line in c.text().splitlines() if "workers compute on CPUs" in line]
        assert len(lines) == 1 and why in lines[0], c.text()
        assert c.stop() == 0


def cuda_is_refused_in_one_line():
    return refused("")


def auto_goes_on_with_the_cpu():
    goes_on("")


def a_driver_that_is_too_old_is_told_with_its_version():
    return refused("CUDA 11.0", {"LD_LIBRARY_PATH": OLD_DRIVER})


def auto_passes_over_a_driver_that_is_too_old():
    goes_on("CUDA 11.0", {"LD_LIBRARY_PATH": OLD_DRIVER})


tests = [cuda_is_refused_in_one_line, auto_goes_on_with_the_cpu]
if OLD_DRIVER:
    tests += [a_driver_that_is_too_old_is_told_with_its_version, auto_passes_over_a_driver_that_is_too_old]
if plan("--device", "cuda")[0] == 0:
    print("skipped: this host has a GPU")
    sys.exit(77)
main(tests)
