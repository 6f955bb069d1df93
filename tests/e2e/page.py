"""The page at / in a real browser: its chat gives the API's answer, its figures move, nothing is logged as an error.

usage: page.py [SCREENSHOT.png]. Drives a headless Chromium through its DevTools protocol; exits with 77 where there is none. Standard library only.
"""
import base64
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import urllib.request

from cluster import Cluster, until

TEXT = "Tell me a story about a little cat."


class Browser:
    """One tab. Frames of the WebSocket are read whole; the browser does not fragment what it sends here."""

    def __init__(self, binary, folder):
        self.log, self.ids, self.errors = open(os.path.join(folder, "log"), "w+"), itertools.count(1), []
        self.process = subprocess.Popen([binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--window-size=1280,800",
                                         "--remote-debugging-port=0", "--user-data-dir=" + folder, "about:blank"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        port_file = os.path.join(folder, "DevToolsActivePort")
        until("the browser starts", 60, lambda: os.path.exists(port_file) and os.path.getsize(port_file) > 4)
        with open(port_file) as f:
            port = int(f.readline())
        with urllib.request.urlopen("http://127.0.0.1:%d/json" % port, timeout=20) as f:
            path = next(t for t in json.load(f) if t["type"] == "page")["webSocketDebuggerUrl"].split(str(port), 1)[1]
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.sock.sendall(("GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n"
                           % (path, port, base64.b64encode(os.urandom(16)).decode())).encode())
        self.file = self.sock.makefile("rb")
        assert b" 101 " in self.file.readline()
        while self.file.readline().strip():
            pass
        for domain in ("Page", "Runtime", "Log"):
            self.call(domain + ".enable")

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def receive(self):
        while True:
            kind, size = self.file.read(2)
            if size == 126:
                size = struct.unpack(">H", self.file.read(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self.file.read(8))[0]
            data = self.file.read(size)
            if kind == 0x81:
                return json.loads(data)
            assert kind & 15 in (9, 10), "a frame of kind 0x%x" % kind

    def call(self, method, **params):
        number = next(self.ids)
        data = json.dumps({"id": number, "method": method, "params": params}).encode()
        head = struct.pack(">BB", 0x81, 0x80 | len(data)) if len(data) < 126 else struct.pack(">BBH", 0x81, 0x80 | 126, len(data))
        self.sock.sendall(head + b"\0\0\0\0" + data)  # masked with zeros
        while True:
            m = self.receive()
            if m.get("id") == number:
                assert "error" not in m, m
                return m["result"]
            if m.get("method") == "Runtime.exceptionThrown" or (m.get("method") == "Log.entryAdded" and m["params"]["entry"]["level"] == "error"):
                self.errors.append(m["params"])

    def js(self, expression):
        r = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in r, r
        return r["result"].get("value")

    def screenshot(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def drive(c, b, screenshot):
    b.call("Page.navigate", url=c.url + "/")
    until("the page says ok", 20, lambda: b.js("document.readyState === 'complete' && document.getElementById('health')?.textContent") == "ok")
    until("the model's name", 10, lambda: b.js("document.getElementById('model').textContent"))
    model = c.get("/v1/models")[1]["data"][0]["id"]
    assert b.js("document.getElementById('model').textContent") == model
    sampling = {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1, "max_tokens": 60, "seed": 5}
    for name, value in sampling.items():
        b.js("document.getElementById('%s').value = %r" % (name, value))
    b.js("document.getElementById('text').focus()")
    b.call("Input.insertText", text=TEXT)
    b.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    note = until("an answer", 30, lambda: b.js("document.querySelector('.assistant .note')?.textContent"))
    answer = b.js("document.querySelector('.assistant').firstChild.data")
    want = c.post("/v1/chat/completions", dict(sampling, model=model, messages=[{"role": "user", "content": TEXT}]))[1]["choices"][0]
    assert answer == want["message"]["content"], (answer, want)
    assert want["finish_reason"] in note and "tokens/s" in note, note
    ranks = until("the ranks", 5, lambda: b.js("document.getElementById('ranks').rows.length"))
    assert ranks == len(c.get("/health")[1]["ranks"]), ranks
    until("tokens a second", 5, lambda: b.js("Math.max(0, ...rates)") > 0)
    if screenshot:
        b.js("document.getElementById('seed').value = ''; document.getElementById('max_tokens').value = 400")
        b.call("Input.insertText", text="And then?")
        b.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
        until("a second answer", 60, lambda: b.js("document.querySelectorAll('.assistant .note').length") == 2)
        until("a rate", 5, lambda: b.js("rates.length > 2"))
        b.screenshot(screenshot)
    else:
        b.js("document.getElementById('clear').click()")
        assert b.js("document.getElementById('log').children.length") == 0
    assert not b.errors, b.errors
    return "%r, %s" % (answer[:40], note)


if __name__ == "__main__":
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not binary:
        print("skipped: no Chromium here")
        sys.exit(77)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Cluster(2, flags=["--tensor-parallel-size", "2"]) as c:
        b = Browser(binary, folder)
        try:
            print("ok     " + drive(c, b, sys.argv[1] if len(sys.argv) > 1 else None))
        finally:
            b.close()
