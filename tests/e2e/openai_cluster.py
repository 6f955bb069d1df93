"""The habits of openai_suite.py against a cluster of two workers. usage: openai_cluster.py VENV (made by venv.sh; exits with 77 where there is no package index)

TITAN_E2E_MODEL: another model.
"""
import os
import subprocess
import sys

from cluster import DENSE, Cluster

HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":
    venv = sys.argv[1]
    made = subprocess.run([os.path.join(HERE, "venv.sh"), venv, "openai"]).returncode
    if made:
        sys.exit(made)
    with Cluster(2, model=os.environ.get("TITAN_E2E_MODEL", DENSE), flags=["--tensor-parallel-size", "2", "--log-level", "warn", "--api-key", "suite-key"]) as c:
        suite = [os.path.join(venv, "bin", "python"), os.path.join(HERE, "openai_suite.py"), "--base-url", c.url, "--api-key", "suite-key", *sys.argv[2:]]
        failed = subprocess.run(suite).returncode
    sys.exit(failed)
