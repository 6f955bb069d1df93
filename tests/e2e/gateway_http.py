#!/usr/bin/env python3
"""Real HTTP against gateway_fake (the gateway over a backend that says the prompt again): shapes, limits, hostile input, clients that leave.

usage: gateway_http.py GATEWAY_FAKE MODEL_DIR [TEST...]
"""
import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

FAKE, MODEL = sys.argv[1], sys.argv[2]


class Server:
    """gateway_fake with flags; `with Server(...) as s`."""

    def __init__(self, *flags, model=True):
        args = [FAKE] + (["--model", MODEL] if model else []) + list(flags)
        self.proc = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.proc.stdout.readline()
        if not line.startswith("port "):
            raise RuntimeError("gateway_fake: " + line + self.proc.stderr.read())
        self.port = int(line.split()[1])

    def __enter__(self):
        return self

    def stop(self):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        self.out, self.err = self.proc.communicate(timeout=20)
        return self.proc.returncode

    def __exit__(self, *_):
        assert self.stop() == 0, (self.proc.returncode, self.err[-2000:])
        assert "Sanitizer" not in self.err, self.err[-4000:]

    def call(self, method, path, body=None, headers=None, timeout=20):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        c.request(method, path, data, headers or {})
        r = c.getresponse()
        raw = r.read()
        c.close()
        return r.status, dict(r.getheaders()), raw

    def post(self, path, body, headers=None):
        status, head, raw = self.call("POST", path, body, headers)
        return status, json.loads(raw)

    def complete(self, **body):
        return self.post("/v1/completions", body)

    def chat(self, content="Hello world, how are you?", **body):
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}], **body})

    def stream(self, path, body):
        status, head, raw = self.call("POST", path, {**body, "stream": True})
        assert status == 200 and head["Content-Type"].startswith("text/event-stream"), (status, raw)
        events = [e for e in raw.decode().split("\n\n") if e]
        assert events[-1] == "data: [DONE]", events[-1]
        return [json.loads(e[6:]) for e in events[:-1] if e.startswith("data: ")]

    def running(self):
        text = self.call("GET", "/metrics")[2].decode()
        return int([l for l in text.splitlines() if l.startswith("vllm:num_requests_running ")][0].split()[1])

    def wait_running(self, n, within):
        end = time.time() + within
        while self.running() != n:
            assert time.time() < end, "still %d requests after %.1f s" % (self.running(), within)
            time.sleep(0.02)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


def raw_post(path, body, extra=""):
    data = json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n" % (path.encode(), len(data), extra.encode()) + data


def read_response(s):
    """One response with Content-Length off a raw socket: (status, headers, body)."""
    data = b""
    while b"\r\n\r\n" not in data:
        got = s.recv(65536)
        assert got, "closed after " + repr(data[:200])
        data += got
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {k.lower(): v.strip() for k, v in (l.split(":", 1) for l in lines[1:])}
    n = int(headers.get("content-length", 0))
    while len(body) < n:
        body += s.recv(65536)
    return int(lines[0].split()[1]), headers, body


def refused(answer, status, *words, param="-"):
    got, body = answer
    e = body.get("error")
    assert got == status and e, (got, str(body)[:300])
    assert set(e) == {"message", "type", "param", "code"}, e
    for w in words:
        assert w in e["message"], (w, e)
    if param != "-":
        assert e["param"] == param, e
    return e


LONG = "Once upon a time, there was a little cat who lived in a big house with a red door. "

# ---- shapes ----


def test_completion_is_complete():
    with Server() as s:
        status, r = s.complete(prompt=LONG, max_tokens=5, temperature=0, user="me", unknown_field=[1])
        assert status == 200 and r["object"] == "text_completion" and r["model"] == "fake-model"
        c = r["choices"][0]
        assert LONG.startswith(c["text"]) and c["text"] and c["finish_reason"] == "length" and c["stop_reason"] is None and c["logprobs"] is None
        u = r["usage"]
        assert u["completion_tokens"] == 5 and u["total_tokens"] == u["prompt_tokens"] + 5
        status, r = s.complete(prompt=LONG, temperature=0, max_tokens=500)
        assert r["choices"][0]["text"] == LONG and r["choices"][0]["finish_reason"] == "stop"
        status, r = s.complete(prompt=LONG, temperature=0)
        assert r["usage"]["completion_tokens"] == 16
        status, r = s.complete(prompt=LONG, temperature=0, max_tokens=50, ignore_eos=True)
        assert r["usage"]["completion_tokens"] == 50
        status, r = s.complete(prompt="Once", temperature=0, max_tokens=50, min_tokens=20)
        assert r["usage"]["completion_tokens"] == 21 and r["choices"][0]["finish_reason"] == "stop"


def test_stream_equals_whole():
    with Server() as s:
        for extra in ({}, {"logprobs": 3}, {"stop": ["red"]}, {"stop": ["house with a re", "zzz"], "include_stop_str_in_output": True}, {"n": 3},
                      {"echo": True}, {"echo": True, "logprobs": 1}, {"return_token_ids": True}, {"skip_special_tokens": False}):
            body = {"prompt": LONG, "max_tokens": 40, "temperature": 0, **extra}
            whole = s.complete(**body)[1]
            chunks = s.stream("/v1/completions", {**body, "stream_options": {"include_usage": True}})
            assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"], (chunks[-1], whole["usage"])
            for c in whole["choices"]:
                mine = [x["choices"][0] for x in chunks[:-1] if x["choices"][0]["index"] == c["index"]]
                assert all(x["usage"] is None for x in chunks[:-1])
                assert "".join(x["text"] for x in mine) == c["text"], extra
                assert [x["finish_reason"] for x in mine if x["finish_reason"]] == [c["finish_reason"]]
                assert mine[-1]["stop_reason"] == c["stop_reason"]
                if "logprobs" in extra:
                    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                        assert sum((x["logprobs"][field] for x in mine if x["logprobs"]), []) == c["logprobs"][field], field
                if "return_token_ids" in extra:
                    assert sum((x["token_ids"] for x in mine), []) == c["token_ids"]
                    assert mine[0]["prompt_token_ids"] == c["prompt_token_ids"]


def test_chat_stream_equals_whole():
    with Server() as s:
        for extra in ({}, {"logprobs": True, "top_logprobs": 2}, {"n": 2}, {"stop": "you"}, {"return_token_ids": True}):
            body = {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": LONG}], "temperature": 0, "max_completion_tokens": 30, **extra}
            whole = s.post("/v1/chat/completions", body)[1]
            assert whole["object"] == "chat.completion"
            chunks = s.stream("/v1/chat/completions", {**body, "stream_options": {"include_usage": True, "continuous_usage_stats": True}})
            assert chunks[-1]["usage"] == whole["usage"] and all("usage" in x for x in chunks)
            for c in whole["choices"]:
                assert c["message"]["role"] == "assistant"
                mine = [x["choices"][0] for x in chunks[:-1] if x["choices"][0]["index"] == c["index"]]
                assert mine[0]["delta"] == {"role": "assistant", "content": ""}
                assert "".join(x["delta"].get("content", "") for x in mine) == c["message"]["content"]
                assert mine[-1]["finish_reason"] == c["finish_reason"]
                if "logprobs" in extra:
                    assert sum((x["logprobs"]["content"] for x in mine if x["logprobs"]), []) == c["logprobs"]["content"]
                if "return_token_ids" in extra:
                    assert sum((x.get("token_ids", []) for x in mine), []) == c["token_ids"]
                    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]


def test_stream_bytes():
    with Server() as s:
        status, head, raw = s.call("POST", "/v1/completions", {"prompt": "Once upon", "temperature": 0, "max_tokens": 3, "stream": True}, {"X-Request-Id": "me-1"})
        assert head["X-Request-Id"] == "me-1" and head["Cache-Control"] == "no-cache"
        events = raw.decode().split("\n\n")
        created = json.loads(events[0][6:])["created"]
        pre = 'data: {"id":"cmpl-me-1","object":"text_completion","created":%d,"model":"fake-model","choices":[{"index":0,"text":' % created
        text = "".join(json.loads(e[6:])["choices"][0]["text"] for e in events[:-2])
        assert text == "Once upon" and raw.endswith(b'"finish_reason":"length","stop_reason":null}]}\n\ndata: [DONE]\n\n'), raw
        assert all(e.startswith(pre) for e in events[:-2]), events


def test_logprobs():
    with Server() as s:
        c = s.complete(prompt=LONG, max_tokens=6, temperature=0, logprobs=2)[1]["choices"][0]
        lp = c["logprobs"]
        assert lp["token_logprobs"] == [-0.25] * 6 and all(len(t) == 2 for t in lp["top_logprobs"])
        for tok, off in list(zip(lp["tokens"], lp["text_offset"]))[1:]:
            assert c["text"][off:off + len(tok)] == tok
        c = s.complete(prompt=LONG, max_tokens=0, echo=True, logprobs=0)[1]["choices"][0]
        assert c["text"] == LONG and c["logprobs"]["token_logprobs"][0] is None and c["finish_reason"] == "length"
        assert c["logprobs"]["token_logprobs"][1:] == [-0.25] * (len(c["logprobs"]["tokens"]) - 1)
        assert all(len(t) == 1 for t in c["logprobs"]["top_logprobs"][1:])
        r = s.complete(prompt=[5, 6, 7], max_tokens=0, echo=True, n=2)[1]
        assert len(r["choices"]) == 2 and r["usage"]["completion_tokens"] == 0
        ids = s.post("/tokenize", {"prompt": LONG})[1]["tokens"]
        c = s.complete(prompt=ids, max_tokens=1, echo=True, logprobs=1, return_token_ids=True)[1]["choices"][0]
        assert c["prompt_token_ids"] == ids and len(c["logprobs"]["tokens"]) == len(ids) + 1
        d = s.chat(logprobs=True, top_logprobs=20, max_tokens=3)[1]["choices"][0]["logprobs"]["content"]
        assert len(d) == 3 and all(len(t["top_logprobs"]) == 20 and bytes(t["bytes"]).decode("utf8", "replace") for t in d)
        d = s.complete(prompt="Once", max_tokens=2, logprobs=1, return_tokens_as_token_ids=True)[1]["choices"][0]["logprobs"]["tokens"]
        assert all(t.startswith("token_id:") for t in d)


def test_prompts_of_every_kind():
    with Server() as s:
        ids = s.post("/tokenize", {"prompt": "Once upon a time"})[1]
        assert ids["count"] == len(ids["tokens"])
        for prompt, n in (("Once upon", 1), (ids["tokens"], 1), (["Once", "upon", "a"], 3), ([ids["tokens"], [5, 6]], 2)):
            r = s.complete(prompt=prompt, max_tokens=2, n=2, temperature=0)[1]
            assert [c["index"] for c in r["choices"]] == list(range(2 * n)), r
        back = s.post("/detokenize", {"tokens": ids["tokens"][1:]})[1]["prompt"]
        assert back == "Once upon a time"
        r = s.post("/tokenize", {"messages": [{"role": "user", "content": "Hi"}], "return_token_strs": True})[1]
        assert len(r["token_strs"]) == r["count"] > 2
        assert s.post("/tokenize", {"prompt": "Hi", "add_special_tokens": False})[1]["count"] == s.post("/tokenize", {"prompt": "Hi"})[1]["count"] - 1


def test_seeds():
    with Server() as s:
        a = s.complete(prompt="Once", temperature=1, seed=7, max_tokens=20)[1]["choices"][0]["text"]
        b = s.complete(prompt="Once", temperature=1, seed=7, max_tokens=20)[1]["choices"][0]["text"]
        c = s.complete(prompt="Once", temperature=1, seed=8, max_tokens=20)[1]["choices"][0]["text"]
        d = s.complete(prompt="Once", temperature=1, max_tokens=20)[1]["choices"][0]["text"]
        e = s.complete(prompt="Once", temperature=1, max_tokens=20)[1]["choices"][0]["text"]
        assert a == b and a != c and d != e
        n = s.complete(prompt="Once", temperature=1, seed=-5, n=3, max_tokens=20)[1]["choices"]
        assert len({x["text"] for x in n}) == 3


def test_stop_token_ids():
    with Server() as s:
        ids = s.post("/tokenize", {"prompt": LONG})[1]["tokens"]
        r = s.complete(prompt=LONG, temperature=0, max_tokens=40, stop_token_ids=[ids[5]], return_token_ids=True)[1]
        c = r["choices"][0]
        assert c["finish_reason"] == "stop" and c["stop_reason"] == ids[5] and c["token_ids"] == ids[:6] and r["usage"]["completion_tokens"] == 6
        assert c["text"] == s.post("/detokenize", {"tokens": ids[1:5]})[1]["prompt"]


def test_tools_and_roles():
    with Server() as s:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}
        m = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
             {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "3"}, {"role": "user", "content": "c"}]
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
        status, r = s.post("/v1/chat/completions", {"messages": m, "tools": tools, "tool_choice": "auto", "max_tokens": 60, "temperature": 0})
        assert status == 200 and "a\nb" in r["choices"][0]["message"]["content"], r
        refused(s.post("/v1/chat/completions", {"messages": m, "tools": tools, "tool_choice": "required"}), 400, param="tool_choice")


# ---- refusals ----


def test_bad_fields_are_named():
    with Server() as s:
        long = "Once " * 5000
        refused(s.complete(prompt=long), 400, "4096", "5002")
        assert refused(s.complete(prompt=long), 400)["code"] == "context_length_exceeded"
        refused(s.complete(prompt="Once upon a time. " * 1_500_000), 400, "4096", "more than", param="prompt")
        refused(s.complete(prompt="Once", max_tokens=10 ** 12), 400, "4096", param="max_tokens")
        for field, value in (("temperature", -1), ("temperature", "hot"), ("top_p", 0), ("top_p", 1.5), ("top_k", -7), ("min_p", 2), ("n", 10 ** 9), ("n", 0),
                             ("repetition_penalty", 0), ("frequency_penalty", 3), ("presence_penalty", -3), ("logprobs", 21), ("logprobs", True),
                             ("best_of", 3), ("stop", 5), ("stop", [""]), ("stop", ["x"] * 10000), ("stop", ["x" * 5000]), ("stop_token_ids", [10 ** 6]),
                             ("stop_token_ids", ["a"]), ("logit_bias", {str(i): 1 for i in range(100000)}), ("logit_bias", {"999999": 1}),
                             ("logit_bias", {"5": 101}), ("logit_bias", {"x": 1}), ("logit_bias", [1]), ("seed", "x"), ("max_tokens", -1), ("max_tokens", 0),
                             ("min_tokens", 17), ("stream", "yes"), ("echo", 1), ("suffix", "x"), ("response_format", {"type": "json_object"}),
                             ("stream_options", {"include_usage": True}), ("prompt", None), ("prompt", []), ("prompt", {}), ("prompt", [1, "a"]),
                             ("prompt", [10 ** 6]), ("prompt", [-1]), ("prompt", [[]]), ("prompt", ["a"] * 2000), ("user", 5), ("ignore_eos", "x")):
            refused(s.complete(**{"prompt": "Once", **{field: value}}), 400, field, param=field)
        refused(s.complete(prompt="Once", model="other"), 404, "other", param="model")
        assert s.complete(prompt="Once", model="alias", best_of=1)[0] == 200
        for field, value in (("top_logprobs", 21), ("top_logprobs", 2), ("messages", []), ("messages", "x"), ("messages", None),
                             ("chat_template", "x"), ("continue_final_message", True), ("max_tokens", 0), ("tools", 5)):
            refused(s.chat(**{field: value}), 400, field, param=field)
        refused(s.chat(logprobs=True, top_logprobs=21), 400, "20", param="top_logprobs")
        image = {"type": "image_url", "image_url": {"url": "data:,"}}
        refused(s.chat(content=[image]), 400, "image_url", param="messages[0].content[0]")
        refused(s.post("/v1/chat/completions", {"messages": [{"role": "user"}]}), 400, param="messages[0].content")
        refused(s.post("/v1/chat/completions", {"messages": [{"content": "a"}]}), 400, param="messages[0].role")
        refused(s.post("/detokenize", {"tokens": [10 ** 7]}), 400, param="tokens")


def test_bad_json():
    with Server() as s:
        for body in (b"", b"{", b"[]", b"5", b'{"prompt": "\xff\xfe"}', b'{"prompt": "\\ud800"}', b'{"prompt": "\\u0000"}', b"[" * 100000,
                     b'{"prompt": ' + b"[" * 100000, b'{"prompt":"a","temperature":NaN}', b'{"prompt":"a","temperature":1e999}', b"\x00" * 100,
                     b'{"prompt":"a","seed":99999999999999999999999}', "{\"prompt\":\"a\"}".encode("utf-16")):
            refused(s.post("/v1/completions", body), 400)
            refused(s.post("/v1/chat/completions", body), 400)


def test_template_refuses():
    with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
        f.write("{% for m in messages %}{% if (m.role == 'user') != loop.index0 is even %}{{ raise_exception('roles must alternate') }}{% endif %}"
                "{{ m.content }}{% endfor %}{% if strange is defined %}{{ messages[9].content.x }}{% endif %}")
        f.flush()
        with Server("--chat-template", f.name) as s:
            assert s.chat(max_tokens=1)[0] == 200
            m = [{"role": "user", "content": "a"}] * 2
            refused(s.post("/v1/chat/completions", {"messages": m}), 400, "roles must alternate", param="messages")
            refused(s.chat(chat_template_kwargs={"strange": 1}), 400, "Undefined")
            assert s.chat(chat_template_kwargs={"messages": 5}, max_tokens=1)[0] == 200  # the body's messages win


def test_no_tokenizer():
    with Server(model=False) as s:
        refused(s.complete(prompt="text"), 400, "no tokenizer", param="prompt")
        refused(s.chat(), 400, "no tokenizer", param="messages")
        refused(s.complete(prompt=[1], stop="x"), 400, param="stop")
        refused(s.post("/tokenize", {"prompt": "x"}), 400)
        r = s.complete(prompt=[1, 2, 3], max_tokens=3, temperature=0, return_token_ids=True, logprobs=1)[1]["choices"][0]
        assert r["token_ids"] == [1, 2, 3] and r["text"] == "" and r["logprobs"]["tokens"] == ["token_id:1", "token_id:2", "token_id:3"]


def test_routes_and_methods():
    with Server() as s:
        for path, method, want in (("/nope", "GET", 404), ("/v1/completions", "GET", 405), ("/health", "POST", 405), ("/v1/models", "DELETE", 405),
                                   ("/health", "OPTIONS", 405), ("/", "GET", 404), ("/ping", "GET", 200), ("/ping", "POST", 200), ("/version", "GET", 200),
                                   ("/v1/models", "GET", 200), ("/v1/models/fake-model", "GET", 200), ("/v1/models/x", "GET", 404), ("/v1//completions", "POST", 404)):
            status, head, raw = s.call(method, path)
            assert status == want, (path, method, status)
            assert "X-Request-Id" in head
            if want == 405:
                assert head["Allow"]
            if want >= 400:
                json.loads(raw)["error"]
        status, head, raw = s.call("HEAD", "/health")
        assert status == 200 and raw == b"" and int(head["Content-Length"]) > 0
        assert "Access-Control-Allow-Origin" not in s.call("GET", "/health", headers={"Origin": "http://a"})[1]
    with Server("--cors", "*", "--api-key", "k") as s:
        status, head, raw = s.call("OPTIONS", "/v1/completions", headers={"Origin": "http://a", "Access-Control-Request-Method": "POST"})
        assert status == 204 and head["Access-Control-Allow-Origin"] == "*" and "POST" in head["Access-Control-Allow-Methods"]


def test_key():
    with Server("--api-key", "secret") as s:
        assert s.call("GET", "/health")[0] == 200
        for path in ("/v1/models", "/metrics", "/version", "/ping"):
            for head in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "Bearer secrets"}, {"Authorization": "secret"}, {"Authorization": "Bearer "}):
                status, h, raw = s.call("GET", path, headers=head)
                assert status == 401 and h["WWW-Authenticate"] == "Bearer" and json.loads(raw)["error"]["code"] == "invalid_api_key"
            assert s.call("GET", path, headers={"Authorization": "Bearer secret"})[0] == 200
        assert s.post("/v1/completions", {"prompt": "a"}, {})[0] == 401
        assert s.post("/v1/completions", {"prompt": "a"}, {"Authorization": "bearer secret"})[0] == 200


def test_health():
    with Server() as s:
        status, _, raw = s.call("GET", "/health")
        r = json.loads(raw)
        assert status == 200 and r["status"] == "ok" and [x["rank"] for x in r["ranks"]] == [1, 2]
        s.proc.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        status, _, raw = s.call("GET", "/health")
        assert status == 503 and "rank 2" in json.loads(raw)["message"]


def test_drain_and_overload():
    with Server("--max-requests", "1", "--tps", "20") as s:
        with concurrent.futures.ThreadPoolExecutor() as ex:
            first = ex.submit(s.complete, prompt="Once", max_tokens=20, ignore_eos=True, temperature=0)
            s.wait_running(1, 2)
            status, head, raw = s.call("POST", "/v1/completions", {"prompt": "Once"})
            assert status == 429 and head["Retry-After"] == "1" and json.loads(raw)["error"]["type"] == "rate_limit_error"
            s.proc.send_signal(signal.SIGUSR2)
            time.sleep(0.1)
            status, head, raw = s.call("POST", "/v1/completions", {"prompt": "Once"})
            assert status == 503 and "Retry-After" in head
            assert first.result()[0] == 200


def test_worker_errors():
    with Server() as s:
        status, r = s.complete(prompt="Once", priority=-666, ignore_eos=True)
        assert status == 500 and "rank 1" in r["error"]["message"] and r["error"]["type"] == "server_error"
        status, head, raw = s.call("POST", "/v1/completions", {"prompt": "Once", "priority": -666, "ignore_eos": True, "stream": True, "temperature": 0})
        events = raw.decode().split("\n\n")
        assert events[-2] == "data: [DONE]" and "rank 1" in json.loads(events[-3][6:])["error"]["message"], events


def test_stop_in_mid_flight():
    s = Server("--tps", "10")
    with concurrent.futures.ThreadPoolExecutor(20) as ex:
        a = [ex.submit(s.complete, prompt="Once", max_tokens=500, ignore_eos=True) for _ in range(5)]
        b = [ex.submit(s.call, "POST", "/v1/completions", {"prompt": "Once", "max_tokens": 500, "ignore_eos": True, "stream": True}) for _ in range(5)]
        idle = s.connect()
        s.wait_running(10, 5)
        t = time.time()
        assert s.stop() == 0 and time.time() - t < 3
        idle.close()
        assert all(x.result()[0] == 503 for x in a)
        for x in b:
            raw = x.result()[2]
            assert b'"error"' in raw and raw.endswith(b"data: [DONE]\n\n") or x.result()[0] == 503, x.result()


# ---- connections ----


def test_keep_alive_and_pipelining():
    with Server() as s:
        c = s.connect()
        for i in range(3):
            c.sendall(raw_post("/v1/completions", {"prompt": "Once", "max_tokens": 2}))
            assert read_response(c)[0] == 200
        for path in ("/nope", "/health"):
            c.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
            read_response(c)
        c.sendall(raw_post("/nope", {"a": 1}))
        assert read_response(c)[0] == 404
        c.sendall(raw_post("/v1/completions", {"prompt": "Once", "max_tokens": 2, "stream": True}))
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += c.recv(65536)
        c.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(c)[0] == 200
        c.close()


def test_http10_chunked_expect():
    with Server() as s:
        body = json.dumps({"prompt": "Once upon", "max_tokens": 2, "temperature": 0, "stream": True}).encode()
        c = s.connect()
        c.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        data = b""
        while True:
            got = c.recv(65536)
            if not got:
                break
            data += got
        assert data.startswith(b"HTTP/1.0 200") or data.startswith(b"HTTP/1.1 200"), data[:100]
        assert b"chunked" not in data.partition(b"\r\n\r\n")[0].lower() and data.endswith(b"data: [DONE]\n\n"), data
        c = s.connect()
        body = json.dumps({"prompt": "Once upon", "max_tokens": 2}).encode()
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for b in body:
            c.sendall(b"1\r\n" + bytes([b]) + b"\r\n")
        c.sendall(b"0\r\n\r\n")
        assert read_response(c)[0] == 200
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert c.recv(100).startswith(b"HTTP/1.1 100")
        c.sendall(body)
        assert read_response(c)[0] == 200


def test_large_bodies():
    with Server("--max-body-bytes", "1000000") as s:
        status, r = s.post("/v1/completions", b" " * 100_000_000)
        assert status == 413 and "1000000" in r["error"]["message"]
        c = s.connect()  # announced, with Expect: refused before a byte of it
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100000000\r\n\r\n")
        assert read_response(c)[0] == 413
        c = s.connect()  # chunked: not announced
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(50):
            c.sendall(chunk)
        c.sendall(b"0\r\n\r\n")
        assert read_response(c)[0] == 413
        rss = int([l for l in open("/proc/%d/status" % s.proc.pid) if l.startswith("VmRSS")][0].split()[1])
        assert rss < 100_000, rss


def test_garbage():
    with Server("--receive-timeout", "2") as s:
        for data in (b"\r\n\r\n", b"\x00\x01\x02" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100000, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000,
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n"):
            c = s.connect()
            c.settimeout(5)
            try:
                c.sendall(data)
                while c.recv(65536):
                    pass
            except OSError:
                pass
            c.close()
        assert s.call("GET", "/health")[0] == 200


# ---- clients that leave, or dawdle ----


def test_disconnect_frees():
    with Server("--tps", "5") as s:
        for stream in (False, True):
            for wait in (0.0, 0.5):
                c = s.connect()
                c.sendall(raw_post("/v1/completions", {"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "stream": stream, "n": 2}))
                s.wait_running(1, 2)
                time.sleep(wait)
                c.close()
                s.wait_running(0, 1.0)


def test_disconnect_in_prefill():
    with Server("--prefill-ms", "30000", "--ping", "1") as s:
        c = s.connect()
        c.sendall(raw_post("/v1/completions", {"prompt": "Once", "stream": True}))
        s.wait_running(1, 2)
        data = c.recv(65536)
        while b": ping\n\n" not in data:
            data += c.recv(65536)
        c.close()
        s.wait_running(0, 1.0)
        with concurrent.futures.ThreadPoolExecutor(50) as ex:  # a crowd that leaves at once
            def brief(i):
                c = s.connect()
                c.sendall(raw_post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "stream": i % 2 == 0}))
                if i % 3:
                    time.sleep(0.05)
                c.close()
            list(ex.map(brief, range(200)))
        s.wait_running(0, 2.0)


def test_slow_loris():
    with Server("--receive-timeout", "3", "--idle-timeout", "5") as s:
        crowd = [s.connect() for _ in range(200)]
        for i, c in enumerate(crowd):
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 100\r\n\r\n{" if i % 2 else b"X-A"))
        t = time.time()
        while time.time() - t < 4.5:
            for c in crowd:
                try:
                    c.send(b":")
                except OSError:
                    pass
            t0 = time.time()
            assert s.complete(prompt="Once", max_tokens=2)[0] == 200
            assert time.time() - t0 < 1.0
            time.sleep(0.3)
        time.sleep(1.5)
        left = int([l for l in s.call("GET", "/metrics")[2].decode().splitlines() if l.startswith("titan_http_connections ")][0].split()[1])
        assert left <= 2, left
        for c in crowd:
            c.close()


def test_reader_that_never_reads():
    with Server("--idle-timeout", "2", "--max-model-len", "4000000", "--tps", "0") as s:
        c = socket.socket()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.connect(("127.0.0.1", s.port))
        c.sendall(raw_post("/v1/completions", {"prompt": LONG, "max_tokens": 3000000, "ignore_eos": True, "stream": True, "temperature": 0, "logprobs": 5}))
        s.wait_running(1, 2)
        s.wait_running(0, 8)  # cut off
        rss = int([l for l in open("/proc/%d/status" % s.proc.pid) if l.startswith("VmHWM")][0].split()[1])
        assert rss < 200_000, rss
        assert s.call("GET", "/health")[0] == 200
        c.close()


def test_slow_reader_gets_all():
    with Server("--tps", "0") as s:
        c = socket.socket()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.connect(("127.0.0.1", s.port))
        c.sendall(raw_post("/v1/completions", {"prompt": LONG, "max_tokens": 4000, "ignore_eos": True, "stream": True, "temperature": 0, "logprobs": 5, "return_token_ids": True}))
        time.sleep(1.5)
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            got = c.recv(1 << 20)
            assert got
            data += got
        events = [e for e in dechunk(data).decode().split("\n\n") if e.startswith("data: {")]
        assert sum(len(json.loads(e[6:])["choices"][0]["token_ids"]) for e in events) == 4000


def dechunk(data):
    data = data.partition(b"\r\n\r\n")[2]
    out = b""
    while data:
        n, _, data = data.partition(b"\r\n")
        n = int(n, 16)
        if n == 0:
            break
        out += data[:n]
        data = data[n + 2:]
    return out


def test_many_at_once():
    with Server("--tps", "200") as s:
        def one(i):
            body = {"prompt": LONG, "max_tokens": 30, "temperature": 0, "stream": i % 2 == 0, "stop": "little" if i % 3 == 0 else None}
            status, head, raw = s.call("POST", "/v1/completions", body)
            assert status == 200
            text = "".join(json.loads(e[6:])["choices"][0]["text"] for e in raw.decode().split("\n\n") if e.startswith("data: {")) if i % 2 == 0 else json.loads(raw)["choices"][0]["text"]
            want = LONG.partition("little")[0] if i % 3 == 0 else None
            assert LONG.startswith(text) and (want is None or text == want), text
        with concurrent.futures.ThreadPoolExecutor(60) as ex:
            list(ex.map(one, range(300)))
        s.wait_running(0, 1)


def test_port_in_use():
    with Server() as s:
        r = subprocess.run([FAKE, "--port", str(s.port)], capture_output=True, text=True, timeout=10)
        assert r.returncode == 3 and str(s.port) in r.stderr and "in use" in r.stderr, r


def test_access_log():
    s = Server("--access-log")
    for _ in range(30):
        s.complete(prompt="Once", max_tokens=2)
    s.call("GET", "/nope")
    s.stop()
    lines = [l for l in s.err.splitlines() if "gateway: POST /v1/completions status=200" in l]
    assert len(lines) == 30 and "prompt_tokens=2 tokens=2" in lines[0], s.err[:500]
    assert "GET /nope status=404" in s.err


def main():
    tests = [(n, f) for n, f in sorted(globals().items()) if n.startswith("test_") and (len(sys.argv) < 4 or n in sys.argv[3:])]
    failed = 0
    for name, f in tests:
        t = time.time()
        try:
            f()
            print("ok   %-32s %.2f s" % (name, time.time() - t), flush=True)
        except Exception as e:  # noqa: BLE001 - a test that fails in any way fails
            failed += 1
            import traceback
            print("FAIL %-32s %s" % (name, "".join(traceback.format_exc(limit=-3))), flush=True)
    print("%d of %d passed" % (len(tests) - failed, len(tests)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
