"""A tiny OpenAI-compatible server with known timings, for the tests of the titan command: the first token after TTFT seconds, the others ITL apart.

Standard library only. What a request asks for by its prompt or model: "fail" -> 400 with OpenAI's error object, "cut" -> the connection is closed in
mid-stream, "busy" -> 429, "midway" -> an error event in the stream. Everything seen is in Server.seen.
"""
import http.server
import json
import threading
import time

TTFT, ITL = 0.06, 0.02


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, code, body, kind="application/json"):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refused(self):
        key = self.server.api_key
        if key and self.headers.get("Authorization") != "Bearer " + key:
            self.reply(401, {"error": {"message": "the key is wrong", "type": "authentication_error", "param": None, "code": None}})
            return True
        return False

    def do_GET(self):
        if self.refused():
            return
        if self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": "fake-model"}]})
        elif self.path == "/health":
            rank = {"rank": 1, "healthy": True, "step": 7, "age_ms": 3, "step_us": 1500, "device": "cpu", "host": "h", "doing": "waiting"}
            self.reply(200, {"status": "ok", "running": 2, "waiting": 1, "pages": 100, "pages_used": 25, "steps": 7, "message": "", "ranks": [rank]})
        elif self.path == "/metrics":
            self.server.ticks += 1
            t = self.server.ticks
            lines = ["# HELP x y", "vllm:generation_tokens_total{model=\"a}b\"} %d" % (100 * t), "titan_step_seconds_sum %g" % (0.1 * t),
                     "titan_step_seconds_count %d" % (10 * t)]
            lines += ['titan_expert_rows_total{expert="%d"} %d' % (e, t * (10 if e else 70)) for e in range(4)]
            lines += ['titan_expert_load{layer="%d",expert="%d"} %d' % (l, e, 1 + e) for l in range(2) for e in range(4)]
            self.reply(200, "\n".join(lines) + "\n", "text/plain")
        else:
            self.reply(404, {"error": {"message": "no such route"}})

    def chunk(self, data):
        # cut at odd places, so that the client's parsers see every kind of seam
        self.wfile.write(b"%x\r\n" % len(data))
        self.wfile.write(data[:3])
        self.wfile.flush()
        self.wfile.write(data[3:] + b"\r\n")
        self.wfile.flush()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append((self.path, body, time.monotonic()))
        if self.refused():
            return
        if self.path == "/tokenize":
            ids = [1] * body["add_special_tokens"] + [10 + ord(c) for c in body["prompt"]]
            self.reply(200, {"tokens": ids, "count": len(ids), "token_strs": ["?"] * len(ids)})
        elif self.path == "/detokenize":
            self.reply(200, {"prompt": "".join(chr(i - 10) for i in body["tokens"])})
        elif body.get("stream"):
            self.stream(body)
        elif body.get("echo"):
            n = len(body["prompt"])
            scores = [None] + [-0.5 if i % 2 else -1.5 for i in range(1, n)]
            self.reply(200, {"choices": [{"index": 0, "text": "", "logprobs": {"token_logprobs": scores}}]})
        else:
            self.reply(400, {"error": {"message": "stream: expected true"}})

    def stream(self, body):
        chat = self.path.endswith("chat/completions")
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if prompt == "fail":
            return self.reply(400, {"error": {"message": "temperature: expected a number in 0..100, got -1", "type": "invalid_request_error"}})
        if prompt == "busy":
            return self.reply(429, {"error": {"message": "too many requests wait"}})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if chat:
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        self.chunk(b": ping\n\n")
        n = body["max_tokens"]
        for i in range(n):
            time.sleep(TTFT if i == 0 else ITL)
            text = "t%d " % i if i else "h\u00e9 "
            part = {"delta": {"content": text}} if chat else {"text": text}
            self.event({"choices": [dict(part, index=0, finish_reason="length" if i == n - 1 else None)]})
            if prompt == "cut" and i == 1:
                self.close_connection = True
                return None
            if prompt == "midway" and i == 1:
                self.event({"error": {"message": "rank 2 is gone", "code": 500}})
                break
        n_prompt = len(prompt.split()) if isinstance(prompt, str) else len(prompt)
        if body.get("stream_options", {}).get("include_usage"):
            self.event({"choices": [], "usage": {"prompt_tokens": n_prompt, "completion_tokens": n, "total_tokens": n_prompt + n}})
        self.chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        return None

    def event(self, doc):
        self.chunk(b"data: " + json.dumps(doc).encode() + b"\n\n")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, api_key=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.api_key, self.lock, self.seen, self.ticks = api_key, threading.Lock(), [], 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # clients that leave are part of the tests

    @property
    def url(self):
        return "http://127.0.0.1:%d" % self.server_address[1]
