"""Starts and stops clusters for the end-to-end tests, and talks to them. Every wait is bounded; no process outlives its test.

  with Cluster(workers=2, flags=["--tensor-parallel-size", "2"]) as c:
      status, body = c.post("/v1/completions", {...})
      c.kill(2, signal.SIGKILL); c.wait()   # up.sh's exit code

Standard library only. TITAN_SERVE names the binary; TITAN_E2E_MODEL another model.
"""
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
DENSE = os.path.join(ROOT, "models", "titan-tiny-dense")


def processes():
    """(pid, session, state) of every process."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name) as f:
                    rest = f.read().rsplit(")", 1)[1].split()
                yield int(name), int(rest[3]), rest[0]
            except (OSError, IndexError):
                pass


def rank_of(pid):
    try:
        with open("/proc/%d/environ" % pid, "rb") as f:
            for v in f.read().split(b"\0"):
                if v.startswith(b"OMPI_COMM_WORLD_RANK="):
                    return int(v.split(b"=")[1])
    except (OSError, ValueError):
        pass
    return None


def until(what, seconds, condition, pause=0.02):
    """The first true value of condition(), or an AssertionError that says what was waited for."""
    end = time.monotonic() + seconds
    while True:
        v = condition()
        if v:
            return v
        assert time.monotonic() < end, "%s: not within %.1f s" % (what, seconds)
        time.sleep(pause)


class Cluster:
    def __init__(self, workers=1, model=DENSE, flags=(), env=None, start_s=60):
        self.workers, self.start_s = workers, start_s
        self.dir = tempfile.TemporaryDirectory()
        self.ready, self.status = os.path.join(self.dir.name, "ready"), os.path.join(self.dir.name, "status")
        self.cmd = [os.path.join(ROOT, "launch", "up.sh"), "--workers", str(workers), "--model", model, "--port", "0", "--ready-file", self.ready, "--status-file", self.status, *flags]
        self.env = dict(os.environ, **(env or {}))
        self.log = open(os.path.join(self.dir.name, "log"), "w+")
        self.up = None
        self.url = None
        self.pids = {}  # of the ranks, once they serve

    def __enter__(self):
        try:
            self.launch()
            until("ready", self.start_s, lambda: os.path.exists(self.ready) or self.up.poll() is not None)
            assert self.up.poll() is None, "the cluster did not start: exit %s\n%s" % (self.up.returncode, self.text())
            with open(self.ready) as f:
                self.url = f.read().strip()
            self.pids = self.ranks()
            return self
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def launch(self):
        self.up = subprocess.Popen(self.cmd, env=self.env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)

    def __exit__(self, *_):
        if self.up:
            sessions = self.sessions()
            if self.up.poll() is None:
                self.up.kill()
                self.up.wait(10)
            for pid, session, _state in list(processes()):
                if session in sessions:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
        if _ and _[0]:
            print("--- log of the cluster ---\n%s---" % self.text()[-6000:])
        self.log.close()
        self.dir.cleanup()

    def sessions(self):
        """up.sh's session, and mpirun's, which up.sh made."""
        found = {self.up.pid}
        for pid, session, _ in list(processes()):
            try:
                with open("/proc/%d/cmdline" % pid, "rb") as f:
                    if self.dir.name.encode() in f.read():
                        found.add(session)
            except OSError:
                pass
        return found - {os.getsid(0)}

    def text(self):
        self.log.flush()
        with open(self.log.name) as f:
            return f.read()

    def ranks(self):
        """{rank: pid} of the living."""
        sessions = self.sessions()
        found = {}
        for pid, session, state in processes():
            if session in sessions and state != "Z":
                r = rank_of(pid)
                if r is not None:
                    found[r] = pid
        return found

    def kill(self, rank, sig):
        os.kill(self.pids[rank], sig)

    def wait(self, seconds=30):
        """up.sh's exit code."""
        try:
            return self.up.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError("up.sh still runs after %d s\n%s" % (seconds, self.text())) from None

    def stop(self, seconds=30):
        self.up.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def end(self):
        """The status file."""
        with open(self.status) as f:
            return json.load(f)

    # ---- HTTP ----
    def address(self):
        host, port = self.url.split("//")[1].rsplit(":", 1)
        return host, int(port)

    def request(self, method, path, body=None, timeout=60):
        c = http.client.HTTPConnection(*self.address(), timeout=timeout)
        try:
            c.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"} if body is not None else {})
            r = c.getresponse()
            data = r.read().decode()
        finally:
            c.close()
        try:
            return r.status, json.loads(data)
        except ValueError:
            return r.status, data

    def get(self, path, timeout=10):
        return self.request("GET", path, timeout=timeout)

    def post(self, path, body, timeout=60):
        return self.request("POST", path, body, timeout)

    def complete(self, prompt, **more):
        status, body = self.post("/v1/completions", dict({"prompt": prompt, "temperature": 0, "max_tokens": 16}, **more))
        assert status == 200, "%s %s" % (status, body)
        return body

    def stream(self, body, timeout=60):
        return Stream(self, body, timeout)

    def metric(self, name):
        """Sum over a metric's series, 0 when there is none."""
        status, text = self.get("/metrics")
        assert status == 200
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name)

    def pages_used(self):
        return self.get("/health")[1]["pages_used"]


class Stream:
    """One SSE request over a plain socket: events() yields parsed data, "[DONE]" last."""

    def __init__(self, cluster, body, timeout):
        data = json.dumps(dict(body, stream=True)).encode()
        self.sock = socket.create_connection(cluster.address(), timeout=timeout)
        self.sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        self.file = self.sock.makefile("rb")

    def events(self):
        for line in self.file:
            if line.startswith(b"data: "):
                text = line[6:].decode().strip()
                yield text if text == "[DONE]" else json.loads(text)

    def close(self):
        self.file.close()
        self.sock.close()


def golden(model=DENSE):
    with open(os.path.join(model, "golden.json")) as f:
        return json.load(f)


def main(tests):
    """Runs each function, prints a line each, ends with 1 if any failed. Arguments pick tests by name."""
    failed = 0
    chosen = [t for t in tests if not sys.argv[1:] or t.__name__ in sys.argv[1:]]
    for t in chosen:
        t0 = time.monotonic()
        try:
            note = t()
            print("ok     %s (%.1f s)%s" % (t.__name__.replace("_", " "), time.monotonic() - t0, ": " + note if note else ""), flush=True)
        except Exception as e:  # a test's own words, or what broke in it
            failed += 1
            print("FAILED %s (%.1f s): %s: %s" % (t.__name__.replace("_", " "), time.monotonic() - t0, type(e).__name__, e), flush=True)
    sys.exit(1 if failed else 0)
