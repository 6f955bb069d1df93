#!/usr/bin/env python3
"""The front door, libtitan, its Python wrapper and the titan command over NNG: door_test.py DOOR_FAKE TITAN LIBTITAN SOURCE_DIR."""
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

FAKE, TITAN, LIBRARY, SOURCE = sys.argv[1:5]
os.environ["TITAN_LIBRARY"] = LIBRARY
BINDINGS = os.path.join(SOURCE, "bindings", "python")
sys.path.insert(0, BINDINGS)
import titan  # noqa: E402

DENSE = os.path.join(SOURCE, "models", "titan-tiny-dense")
WORDS = "Once upon a time there was a little dragon who liked to bake cakes with his friend the bear \u00e9\u4e2d"


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


class Door:
    """door_fake, running; a TCP url unless told otherwise."""

    def __init__(self, *flags, url="tcp://127.0.0.1:0", model=DENSE):
        args = [FAKE, "--url", url, *map(str, flags)] + (["--model", model] if model else [])
        self.p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.url = self.p.stdout.readline().split()[1]
        self.http = "http://127.0.0.1:" + self.p.stdout.readline().split()[1]
        self.port = int(self.url.rsplit(":", 1)[1]) if "tcp" in self.url else None

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        out, err = self.p.communicate(timeout=30)
        if self.p.returncode:
            raise AssertionError("door_fake: status %d: %s" % (self.p.returncode, err[-2000:]))
        return out

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        if kind:
            self.p.kill()
            self.p.communicate()
        else:
            self.stop()


class Proxy:
    """Forwards to a port, and cuts each connection after a random number of bytes, in either direction, wherever that is in a message."""

    def __init__(self, port, seed, low, high):
        self.port, self.random, self.low, self.high, self.cuts = port, random.Random(seed), low, high, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "tcp://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                return
            budget = [self.random.randint(self.low, self.high)]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self.pump, args=(a, b, budget), daemon=True).start()

    def pump(self, a, b, budget):
        try:
            while True:
                data = a.recv(4096)
                if not data:
                    break
                part = data[: max(budget[0], 0)]
                budget[0] -= len(data)
                b.sendall(part)
                if len(part) < len(data):
                    self.cuts += 1
                    break
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
                s.close()
            except OSError:
                pass


READER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import titan
url, state_file, text_file = sys.argv[2:5]
with titan.Client(url) as c:
    g = c.resume(open(state_file, "rb").read())
    print("up", flush=True)
    while True:
        chunk = g.next(wait=1.0)
        # text and cursor change together: one file, replaced
        whole = open(text_file, "rb").read() + chunk.text.encode() if os.path.exists(text_file) else chunk.text.encode()
        with open(state_file + ".both", "wb") as f:
            f.write(len(whole).to_bytes(8, "little") + whole + g.state())
        os.replace(state_file + ".both", state_file + ".done")
        open(text_file, "wb").write(whole)
        open(state_file, "wb").write(g.state())
        if chunk.finish:
            print(chunk.finish)
            break
"""


class Basics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.door = Door("--tps", 2000)
        cls.client = titan.Client(cls.door.url)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.door.stop()

    def refused(self, code, param, f, *args, **kwargs):
        with self.assertRaises(titan.TitanError) as e:
            f(*args, **kwargs)
        self.assertEqual((e.exception.http_code, e.exception.param), (code, param), e.exception)
        return e.exception

    def test_text_comes_whole(self):
        g = self.client.submit(WORDS, max_tokens=200, temperature=0)
        self.assertEqual(g.text(), WORDS)
        self.assertEqual(g.next().finish, "stop")  # the end is said again
        self.assertEqual("".join(self.client.complete(WORDS, max_tokens=200, temperature=0)), WORDS)

    def test_ids_logprobs_and_choices(self):
        g = self.client.submit([100, 200, 300], max_tokens=7, temperature=0, ignore_eos=1, logprobs=1, n=3)
        for k in range(3):
            chunks = list(g.chunks(k))
            self.assertEqual([i for c in chunks for i in c.tokens], [100, 200, 300, 100, 200, 300, 100])
            self.assertEqual({x for c in chunks for x in c.logprobs or []}, {-0.25})
            self.assertEqual((chunks[-1].finish, chunks[-1].total), ("length", 7))

    def test_stop_strings(self):
        g = self.client.submit(WORDS, max_tokens=200, temperature=0, stop=["nowhere", "dragon"])
        chunks = list(g.chunks())
        self.assertEqual("".join(c.text for c in chunks), WORDS[: WORDS.index("dragon")])
        self.assertEqual((chunks[-1].finish, chunks[-1].stop_reason), ("stop", "dragon"))

    def test_chat(self):
        text = self.client.submit(messages=[{"role": "user", "content": "hello"}], max_tokens=50, temperature=0).text()
        self.assertIn("hello", text)
        self.refused(400, "messages_json", self.client.submit, messages={"role": "user"})

    def test_replay_gives_the_same_generation(self):
        with titan.Client(self.door.url, client_id="me") as a, titan.Client(self.door.url, client_id="me") as b, titan.Client(self.door.url) as other:
            first = a.submit(WORDS, nonce=77, max_tokens=5, temperature=1)
            again = b.submit(WORDS, nonce=77, max_tokens=5, temperature=1)
            self.assertEqual(first.state(), again.state())
            self.assertEqual(first.text(), again.text())
            self.assertNotEqual(other.submit(WORDS, nonce=77, max_tokens=5).state()[:24], first.state()[:24])

    def test_bad_cursors_and_capabilities(self):
        g = self.client.submit([5, 6], max_tokens=3, temperature=0, ignore_eos=1)
        list(g.chunks())
        state = bytearray(g.state())
        past = self.client.resume(bytes(state[:32]) + struct.pack("<II", 4, 0))
        e = self.refused(416, "cursor", past.next)
        self.assertEqual((e.status, e.message), ("TITAN_ERR_CURSOR", "cursor: 4 is past the end, 3 tokens are there"))
        self.refused(416, "text_cursor", self.client.resume(bytes(state[:32]) + struct.pack("<II", 0, 10**6)).next)
        state[12] ^= 1
        self.refused(403, "capability", self.client.resume(bytes(state)).next)
        self.refused(403, "capability", self.client.resume(bytes(state)).cancel)
        state[0] ^= 64
        self.refused(404, "generation", self.client.resume(bytes(state)).next)
        self.assertFalse(self.client.resume(bytes(state)).cancel())

    def test_bad_requests_name_the_field(self):
        self.assertIn("temperature", str(self.refused(400, "temperature", self.client.submit, "a", temperature=101.0)))
        self.refused(400, "max_tokens", self.client.submit, "a", max_tokens=4096)
        with self.assertRaises(titan.TitanError) as e:
            self.client.submit([1], stop=["a"] * 65)
        self.assertEqual(e.exception.status, "TITAN_ERR_ARG")
        with self.assertRaises(titan.TitanError) as e:
            self.client.submit([10**6])
        self.assertIn("prompt_ids", e.exception.message)

    def test_cancel(self):
        g = self.client.submit([5, 6], max_tokens=4000, temperature=0, ignore_eos=1)
        self.assertTrue(g.cancel())
        self.assertEqual(list(g.chunks())[-1].finish, "cancel")

    def test_polls_end_in_time(self):
        with Door("--tps", 1) as slow, titan.Client(slow.url) as c:
            g = c.submit([5], max_tokens=2000, temperature=0, ignore_eos=1)
            time.sleep(0.1)
            while g.next(wait=0).tokens:
                pass
            for wait in (0.05, 0.2, 0.0):
                t0 = time.monotonic()
                c2 = g.next(wait=wait)
                if not c2.tokens:
                    self.assertTrue(wait - 0.01 <= time.monotonic() - t0 < wait + 0.3)
            g.cancel()

    def test_status_and_the_command(self):
        s = self.client.status(metrics=True)
        self.assertEqual((s["model"], s["healthy"], len(s["ranks"]), s["ranks"][1]["device"]), ("fake-model", True, 2, "fake"))
        self.assertIn("titan_frontdoor_requests_total", s["metrics"])
        run = lambda *a, **k: subprocess.run([TITAN, *a], capture_output=True, text=True, timeout=30, **k)
        p = run("complete", "-u", self.door.url, "-t", "0", "-n", "100", "-v", WORDS)
        self.assertEqual((p.returncode, p.stdout), (0, WORDS), p.stderr)
        self.assertIn("finish=stop", p.stderr)
        p = run("chat", "-u", self.door.url, "-t", "0", "-n", "60", "tell me")
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertIn("tell me", p.stdout)
        self.assertIn("fake-model", run("status", "-u", self.door.url).stdout)
        p = run("complete", "-u", "tcp://127.0.0.1:9", "x")
        self.assertEqual(p.returncode, 1)
        self.assertIn("Connection refused", p.stderr)
        # both doors say the same
        p = run("complete", "-u", self.door.http, "-t", "0", "-n", "100", WORDS)
        self.assertEqual((p.returncode, p.stdout), (0, WORDS), p.stderr)

    def test_garbage_is_refused_and_nothing_is_lost(self):
        rnd = random.Random(5)
        hello = b"\x00SP\x00\x00\x30\x00\x00"  # an SP header: req
        for i in range(60):
            with socket.create_connection(("127.0.0.1", self.door.port)) as s:
                s.settimeout(5)
                body = rnd.randbytes(rnd.randint(0, 300))
                if i % 3 == 0:
                    s.sendall(body)
                elif i % 3 == 1:  # a request id, then no protobuf
                    s.sendall(hello + struct.pack(">Q", 4 + len(body)) + struct.pack(">I", 0x80000001) + body)
                    s.recv(8)
                    n = struct.unpack(">Q", s.recv(8))[0]
                    answer = s.recv(n)
                    self.assertTrue(b"ClientRequest" in answer or b"invalid_request_error" in answer, answer)
                else:  # a message of 2^60 bytes
                    s.sendall(hello + struct.pack(">Q", 1 << 60) + body)
                    s.recv(8)
                    self.assertEqual(s.recv(1), b"")  # closed
        self.assertEqual(self.client.submit(WORDS, max_tokens=100, temperature=0).text(), WORDS)

    def test_one_request_id_many_times(self):
        """Replays by hand: the same bytes (request id included) five times give the same generation."""
        with titan.Client(self.door.url, client_id="bytes") as c:
            g = c.submit([9, 8], nonce=5, max_tokens=3, temperature=0, ignore_eos=1)
        sampling = b""
        submit = b"\x0a\x05bytes" + b"\x10\x05" + b"\x22\x02\x09\x08" + b"\x30\x03" + b"\x5a" + bytes([len(sampling)]) + sampling
        body = b"\x08\x63" + b"\x12" + bytes([len(submit)]) + submit
        message = struct.pack(">Q", 4 + len(body)) + struct.pack(">I", 0x80000063) + body
        with socket.create_connection(("127.0.0.1", self.door.port)) as s:
            s.settimeout(5)
            s.sendall(b"\x00SP\x00\x00\x30\x00\x00" + message * 5)
            f = s.makefile("rb")
            f.read(8)
            answers = {f.read(struct.unpack(">Q", f.read(8))[0]) for _ in range(5)}
        self.assertEqual(len(answers), 1)
        self.assertIn(bytes(g.state()[8:24]), answers.pop())  # the capability


class Trouble(unittest.TestCase):
    def test_reader_killed_a_hundred_times(self):
        with Door("--tps", 9) as door, tempfile.TemporaryDirectory() as d:
            prompt = " ".join([WORDS] * 24)
            with titan.Client(door.url) as c:
                g = c.submit(prompt, max_tokens=1500, temperature=0)
            state, text, script = (os.path.join(d, n) for n in ("state", "text", "reader.py"))
            with open(script, "w") as f:
                f.write(READER)
            write(state, g.state())
            rnd = random.Random(1)
            kills, progress, last = 0, 0, b""
            while True:
                p = subprocess.Popen([sys.executable, script, BINDINGS, door.url, state, text], stdout=subprocess.PIPE)
                self.assertEqual(p.stdout.readline(), b"up\n")  # it is killed while it reads, not while Python starts
                if kills < 100:
                    time.sleep(rnd.random() * 0.12)
                    p.kill()
                    p.communicate()
                    kills += 1
                    with titan.Client(door.url) as c:  # still under way: not one kill came after the end
                        self.assertGreater(c.status()["running"], 0)
                    if os.path.exists(state + ".done"):  # whatever was torn: the pair that was replaced together counts
                        data = read(state + ".done")
                        progress += data != last
                        last = data
                        n = int.from_bytes(data[:8], "little")
                        write(text, data[8 : 8 + n])
                        write(state, data[8 + n :])
                else:
                    out = p.communicate(timeout=120)[0].decode()
                    self.assertEqual(out.strip(), "stop")
                    break
            self.assertEqual(read(text).decode(), prompt)
            self.assertGreater(progress, 30, "most readers were killed before they had read anything")
            print("reader killed %d times, %d of them in mid-reading" % (kills, progress), file=sys.stderr)

    def test_network_cut_at_random_bytes(self):
        with Door("--tps", 400) as door:
            prompt = " ".join([WORDS] * 12)
            for seed in range(3):
                proxy = Proxy(door.port, seed, 60, 1500)
                with titan.Client(proxy.url) as c:
                    text = c.submit(prompt, max_tokens=900, temperature=0).text()
                self.assertEqual(text, prompt)
                self.assertGreater(proxy.cuts, 3)

    def test_few_contexts_serve_many_pollers(self):
        with Door("--tps", 20, "--contexts", 8) as door, titan.Client(door.url) as c:
            texts = []
            read = lambda: texts.append(c.submit(WORDS, max_tokens=12, temperature=0, ignore_eos=1).text())
            threads = [threading.Thread(target=read) for _ in range(40)]
            for t in threads:
                t.start()
            t0 = time.monotonic()
            self.assertTrue(c.status()["healthy"])
            self.assertLess(time.monotonic() - t0, 1.0)
            for t in threads:
                t.join(30)
            self.assertEqual((len(texts), len(set(texts))), (40, 1))

    def test_bounds(self):
        flags = ("--tps", 50, "--max-generations", 40, "--keep-ms", 1500, "--max-message-bytes", 20000)  # 20 a text thread
        with Door(*flags) as door, titan.Client(door.url, timeout=1.5) as c:
            ended = []
            for i in range(120):  # ended ones make room
                ended.append(c.submit([5 + i], max_tokens=1, temperature=0, ignore_eos=1))
                self.assertEqual(ended[-1].next().tokens, [5 + i])
            for g in (ended[0], ended[30]):
                with self.assertRaises(titan.TitanError) as e:
                    g.next()
                self.assertEqual(e.exception.status, "TITAN_ERR_NOTFOUND")
            time.sleep(2)
            with self.assertRaises(titan.TitanError):
                ended[-1].next()  # its time is over
            full = []
            with self.assertRaises(titan.TitanError) as e:
                for _ in range(42):
                    full.append(c.submit([5], max_tokens=3000, temperature=0, ignore_eos=1))
            self.assertGreaterEqual(len(full), 20)
            self.assertEqual((e.exception.status, e.exception.http_code), ("TITAN_ERR_BUSY", 429))
            with self.assertRaises(titan.TitanError) as e:
                c.submit("x" * 100000)
            self.assertEqual(e.exception.status, "TITAN_ERR_TIMEOUT")
            self.assertTrue(c.status()["healthy"])
            for g in full:
                g.cancel()

    def test_api_key(self):
        with Door("--api-key", "secret") as door:
            for key in (None, "secre", "secret2", ""):
                with titan.Client(door.url, api_key=key) as c, self.assertRaises(titan.TitanError) as e:
                    c.submit([5])
                self.assertEqual(e.exception.status, "TITAN_ERR_AUTH")
            with titan.Client(door.url, api_key="secret") as c:
                self.assertEqual(c.submit([5], max_tokens=1, temperature=0, ignore_eos=1).next().tokens, [5])

    def test_too_many_connections(self):
        with Door("--max-connections", 3) as door:
            clients = [titan.Client(door.url) for _ in range(3)]
            with self.assertRaises(titan.TitanError):
                titan.Client(door.url, timeout=1, connect_timeout=1).status()
            clients.pop().close()
            time.sleep(0.3)
            with titan.Client(door.url, timeout=5) as c:
                self.assertTrue(c.status()["healthy"])
            for c in clients:
                c.close()

    def test_stop_with_pollers_and_running_generations(self):
        door = Door("--tps", 1)
        c = titan.Client(door.url, timeout=5)
        g = c.submit([5], max_tokens=1000, temperature=0, ignore_eos=1)
        ends = []

        def poll():
            try:
                while not g.next(wait=30).finish:
                    pass
                ends.append("finish")
            except titan.TitanError as e:
                ends.append(e.status)

        t = threading.Thread(target=poll)
        t.start()
        time.sleep(0.3)
        t0 = time.monotonic()
        self.assertIn("running 0", door.stop())
        self.assertLess(time.monotonic() - t0, 8)
        t.join(40)
        self.assertEqual(len(ends), 1)
        c.close()


class Transports(unittest.TestCase):
    def test_ipc_is_for_its_owner_only(self):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "door")
            with Door(url="ipc://" + path), titan.Client("ipc://" + path) as c:
                self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
                self.assertEqual(c.submit(WORDS, max_tokens=100, temperature=0).text(), WORDS)

    def test_tls(self):
        with tempfile.TemporaryDirectory() as d:
            def certificate(name, issuer=None):
                ext = os.path.join(d, name + ".ext")
                write(ext, ("subjectAltName=DNS:%s\n" % name).encode())
                run = lambda *a: subprocess.run(["openssl", *a], check=True, capture_output=True, cwd=d)
                if not issuer:
                    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", name + ".key", "-out", name + ".pem", "-days", "2", "-subj", "/CN=" + name)
                else:
                    run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=" + name)
                    run("x509", "-req", "-in", name + ".csr", "-CA", issuer + ".pem", "-CAkey", issuer + ".key", "-CAcreateserial", "-days", "2", "-out",
                        name + ".pem", "-extfile", ext)
                return [os.path.join(d, name + e) for e in (".pem", ".key")]

            try:
                ca, _ = certificate("ca")
            except (OSError, subprocess.CalledProcessError):
                self.skipTest("no openssl command")
            other, _ = certificate("other")
            cert, key = certificate("server", "ca")
            mine, mine_key = certificate("client", "ca")
            url = "tls+tcp://127.0.0.1:0"
            with Door("--tls-cert", cert, "--tls-key", key, url=url) as door:
                with titan.Client(door.url, ca_file=ca, server_name="server") as c:
                    self.assertEqual(c.submit(WORDS, max_tokens=100, temperature=0).text(), WORDS)
                p = subprocess.run([TITAN, "complete", "-u", door.url, "--tls-ca", ca, "--tls-server-name", "server", "-t", "0", WORDS], capture_output=True, text=True)
                self.assertEqual((p.returncode, p.stdout), (0, WORDS), p.stderr)
                for wrong in ({"ca_file": other, "server_name": "server"}, {"ca_file": ca, "server_name": "somebody"}, {"ca_file": ca}):
                    with self.assertRaises(titan.TitanError) as e:
                        titan.Client(door.url, connect_timeout=2, **wrong)
                    self.assertEqual(e.exception.status, "TITAN_ERR_TLS", e.exception)
                with self.assertRaises(titan.TitanError) as e:
                    titan.Client(door.url)
                self.assertIn("ca_file", str(e.exception))
            with Door("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca, url=url) as door:
                with titan.Client(door.url, ca_file=ca, server_name="server", cert_file=mine, key_file=mine_key) as c:
                    self.assertTrue(c.status()["healthy"])
                with self.assertRaises(titan.TitanError):
                    titan.Client(door.url, ca_file=ca, server_name="server", connect_timeout=2, timeout=2).status()
            p = subprocess.run([FAKE, "--url", url, "--tls-cert", ca, "--tls-key", cert], capture_output=True, text=True, timeout=20)
            self.assertEqual(p.returncode, 3)
            self.assertIn("no certificate with its key", p.stderr)

    def test_address_in_use(self):
        with Door() as door:
            p = subprocess.run([FAKE, "--url", door.url], capture_output=True, text=True, timeout=20)
            self.assertEqual(p.returncode, 3)
            self.assertIn("TI_ERR_EXISTS", p.stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[5:])
