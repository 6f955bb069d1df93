#!/usr/bin/env python3
"""The titan command over HTTP against a server with known timings: titan_http_test.py TITAN SOURCE_DIR."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fake_openai  # noqa: E402

TITAN, SOURCE = sys.argv[1], sys.argv[2]
DENSE = os.path.join(SOURCE, "models", "titan-tiny-dense")


def titan(*args, stdin="", env=None):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TITAN_")}
    p = subprocess.run([TITAN, *map(str, args)], input=stdin.encode(), capture_output=True, timeout=60, env=dict(clean, **(env or {})))
    return p.returncode, p.stdout.decode(), p.stderr.decode()


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = fake_openai.Server()
        cls.url = cls.server.url

    def test_complete_streams_the_text(self):
        self.assertEqual(titan("complete", "-u", self.url, "-n", 3, "-v", "a b")[:2], (0, "h\u00e9 t1 t2 "))
        path, body, _ = self.server.seen[-1]
        self.assertEqual((path, body["model"], body["max_tokens"]), ("/v1/completions", "fake-model", 3))

    def test_complete_reads_stdin_and_environment(self):
        rc, out, err = titan("complete", "-n", 2, "--verbose", "--stop", "a", "--stop", "b", stdin="x y z", env={"TITAN_URL": self.url + "/v1/"})
        self.assertEqual((rc, out), (0, "h\u00e9 t1 "))
        self.assertIn("finish=length prompt_tokens=3 completion_tokens=2", err)
        self.assertEqual(self.server.seen[-1][1]["stop"], ["a", "b"])

    def test_complete_tells_what_the_server_says(self):
        for prompt, rc, text in (("fail", 2, "HTTP 400: temperature: expected"), ("busy", 1, "HTTP 429"), ("cut", 1, "closed the connection"),
                                 ("midway", 1, "rank 2 is gone")):
            got = titan("complete", "-u", self.url, "-n", 5, prompt)
            self.assertEqual(got[0], rc, got)
            self.assertIn(text, got[2])

    def test_nobody_there_is_status_1(self):
        rc, _, err = titan("complete", "-u", "http://127.0.0.1:9", "x")
        self.assertEqual(rc, 1)
        self.assertIn("cannot connect to 127.0.0.1:9", err)

    def test_chat_remembers(self):
        rc, out, _ = titan("chat", "-u", self.url, "-n", 2, "--system", "be kind", stdin="one\ntwo\\\nlines\n/quit\n")
        self.assertEqual((rc, out), (0, "h\u00e9 t1 \nh\u00e9 t1 \n"))
        roles = [(m["role"], m["content"]) for m in self.server.seen[-1][1]["messages"]]
        self.assertEqual(roles, [("system", "be kind"), ("user", "one"), ("assistant", "h\u00e9 t1 "), ("user", "two\nlines")])

    def test_chat_undo_and_reset(self):
        titan("chat", "-u", self.url, "-n", 1, stdin="one\n/undo\ntwo\n/reset\nthree\n")
        self.assertEqual([m["content"] for m in self.server.seen[-1][1]["messages"]], ["three"])
        self.assertEqual([m["content"] for m in self.server.seen[-2][1]["messages"]], ["two"])

    def test_api_key(self):
        locked = fake_openai.Server(api_key="secret")
        rc, _, err = titan("complete", "-u", locked.url, "-n", 1, "x")
        self.assertEqual(rc, 1)
        self.assertIn("the key is wrong", err)
        self.assertEqual(titan("complete", "-u", locked.url, "--api-key", "secret", "-n", 1, "x")[0], 0)
        self.assertEqual(titan("complete", "-u", locked.url, "--api-key", "a\nb", "-n", 1, "x")[0], 2)

    def test_tokenize_by_the_server(self):
        self.assertEqual(titan("tokenize", "-u", self.url, "--ids", stdin="ab")[:2], (0, "1 107 108\n"))
        self.assertEqual(titan("tokenize", "-u", self.url, "--ids", "--no-special", stdin="ab")[:2], (0, "107 108\n"))
        self.assertEqual(titan("detokenize", "-u", self.url, stdin="107, 108")[:2], (0, "ab"))

    def test_perplexity_counts_the_second_half_of_each_chunk(self):
        rc, out, _ = titan("perplexity", "-u", self.url, "--no-special", "--chunk", 8, "--max-chunks", 3, "-", stdin="x" * 100)
        self.assertEqual(rc, 0)
        doc = json.loads(out)
        self.assertEqual((doc["tokens"], doc["chunks"], doc["text_tokens"]), (9, 3, 100))
        self.assertAlmostEqual(doc["nll"], (0.5 + 1.5 + 0.5) / 3)  # tokens 5, 6, 7 of each chunk
        prompts = [b["prompt"] for p, b, _ in self.server.seen if b.get("echo")]
        self.assertEqual(prompts[-1], [10 + ord("x")] * 8)
        titan("perplexity", "-u", self.url, "--chunk", 8, "--max-chunks", 1, "-", stdin="x" * 100)
        self.assertEqual(self.server.seen[-1][1]["prompt"], [1] + [10 + ord("x")] * 7)

    def test_status_and_top(self):
        rc, out, _ = titan("status", "-u", self.url)
        self.assertEqual(rc, 0)
        self.assertIn("pages 25 of 100 (25%)", out)
        doc = json.loads(titan("status", "-u", self.url, "--json")[1])
        self.assertEqual((doc["model"], doc["ranks"][0]["step_us"]), ("fake-model", 1500))
        rc, out, _ = titan("top", "-u", self.url, "-i", 0.1, "-r", 2)
        self.assertEqual(rc, 0)
        self.assertIn("step ms 10.00", out)
        self.assertIn("busiest 2.80 x the mean", out)  # 70 of 100 rows on one of four
        self.assertIn("layer 1", out)


class Offline(unittest.TestCase):
    def test_tokens_there_and_back(self):
        text = "Once upon a time, \u00e9\u4e2d\n"
        rc, ids, _ = titan("tokenize", "--model", DENSE, "--no-special", "--ids", stdin=text)
        self.assertEqual(rc, 0)
        self.assertEqual(titan("detokenize", "--model", DENSE, stdin=ids)[:2], (0, text))
        special = titan("tokenize", "--model", DENSE, "--ids", stdin=text)[1]
        self.assertEqual(special, "0 " + ids)
        self.assertEqual(titan("tokenize", "--model", DENSE, "--no-special", "--count", stdin=text)[1], "%d\n" % len(ids.split()))
        rc, _, err = titan("detokenize", "--model", DENSE, stdin="1 99999999999")
        self.assertEqual(rc, 2)
        self.assertIn("id 1: expected an integer", err)

    def test_render(self):
        vars_ = {"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": True, "eos_token": "E", "mine": 5}
        with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
            f.write("{{ messages[0].content }}|{{ mine }}|{{ eos_token }}|{{ tools is none }}|{{ strftime_now('%Y %H:%M:%S') }}{% if mine == 6 %}{{ raise_exception('six') }}{% endif %}")
            f.flush()
            rc, out, _ = titan("render", "--chat-template", f.name, "--now", "2024-02-03 04:05:06", stdin=json.dumps(vars_))
            self.assertEqual((rc, out), (0, "hi|5|E|True|2024 04:05:06"))
            rc, out, err = titan("render", "--chat-template", f.name, stdin=json.dumps(dict(vars_, mine=6)))
            self.assertEqual((rc, out), (2, ""))
            self.assertIn("six", err)
            self.assertEqual(titan("render", "--chat-template", f.name, "--now", "yesterday", stdin="{}")[0], 2)
            self.assertEqual(titan("render", "--chat-template", f.name, stdin="[1]")[0], 2)

    def test_usage(self):
        self.assertEqual(titan("--help")[0], 0)
        for name in "chat complete tokenize detokenize render perplexity status top trace-report bench".split():
            rc, out, _ = titan(name, "--help")
            self.assertEqual(rc, 0)
            self.assertIn("usage: titan " + name, out)
            rc, _, err = titan(name, "--halp")
            self.assertEqual(rc, 2)
            self.assertIn("did you mean --help?", err)
        self.assertIn("did you mean --temperature?", titan("complete", "--temprature", "1", "x")[2])
        self.assertIn("expected a number in -1..100, got 'hot'", titan("complete", "-t", "hot", "x")[2])
        self.assertIn("did you mean bench?", titan("bensh")[2])
        self.assertIn("wants a value", titan("complete", "--url")[2])
        self.assertEqual(titan("complete", "a", "b")[0], 2)


class Bench(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = fake_openai.Server()
        cls.url = cls.server.url

    def bench(self, *args):
        rc, out, err = titan("bench", "-u", self.url, "--json", *args)
        self.assertTrue(out, err)
        return rc, json.loads(out)

    def near(self, got_ms, want_s):
        self.assertGreaterEqual(got_ms, want_s * 1000 - 2)  # the clock of a sleep
        self.assertLess(got_ms, want_s * 1000 * 1.6 + 30)

    def test_closed_loop_times_what_the_server_does(self):
        for endpoint in "completions", "chat":
            rc, doc = self.bench("-n", 12, "-c", 3, "--output-len", 5, "--input-len", 7, "--endpoint", endpoint)
            self.assertEqual((rc, doc["completed"], doc["failed"], doc["output_tokens"], doc["prompt_tokens"]), (0, 12, 0, 60, 84))
            self.near(doc["ttft_ms"]["p50"], fake_openai.TTFT)
            self.near(doc["itl_ms"]["p50"], fake_openai.ITL)
            self.near(doc["tpot_ms"]["p50"], fake_openai.ITL)
            self.near(doc["e2e_ms"]["p50"], fake_openai.TTFT + 4 * fake_openai.ITL)
            self.assertEqual((doc["ttft_ms"]["n"], doc["itl_ms"]["n"], doc["max_in_flight"]), (12, 48, 3))
            self.assertAlmostEqual(doc["output_tokens_per_s"], 60 / doc["duration_s"], places=3)

    def test_open_loop_keeps_its_schedule(self):
        before = len(self.server.seen)
        _, doc = self.bench("-n", 30, "--rate", 20, "--output-len", 2, "--seed", 3)
        times = [t for _, _, t in self.server.seen[before:]]
        self.assertEqual(doc["completed"], 30)
        span = times[-1] - times[0]
        self.assertTrue(0.6 < span < 3.5, span)  # 29 gaps of 50 ms in the mean
        gaps = [b - a for a, b in zip(times, times[1:])]
        self.assertGreater(max(gaps), 2 * sorted(gaps)[len(gaps) // 2])  # exponential, not even

    def test_failures_are_counted_by_what_they_say(self):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
            for p in ("good", "fail", "cut", "midway", "busy", "good"):
                f.write(json.dumps({"prompt": p} if p != "good" else {"turns": [p, "more"]}) + "\n")
            f.flush()
            rc, doc = self.bench("--prompts", f.name, "-c", 2, "--output-len", 4)
        self.assertEqual((rc, doc["completed"], doc["failed"]), (1, 2, 4))
        said = " ".join(e["message"] for e in doc["errors"])
        for part in ("temperature", "429", "rank 2 is gone", "closed the connection"):
            self.assertIn(part, said)

    def test_traces(self):
        with tempfile.TemporaryDirectory() as d:
            mooncake = os.path.join(d, "m.jsonl")
            with open(mooncake, "w") as f:
                for ms, n, ids in ((1000, 600, [7, 1]), (1200, 700, [7, 2])):
                    f.write(json.dumps({"timestamp": ms, "input_length": n, "output_length": 2, "hash_ids": ids}) + "\n")
            subprocess.run(["xz", mooncake], check=True)
            _, doc = self.bench("--trace", mooncake + ".xz", "--prompt-ids", "--vocab", 1000)
            a, b = [s[1]["prompt"] for s in self.server.seen[-2:]]
            self.assertEqual((len(a), len(b), doc["prompt_tokens"]), (600, 700, 1300))
            self.assertEqual(a[:512], b[:512])  # block 7
            self.assertNotEqual(a[512:600], b[512:600])
            self.assertTrue(all(32 <= i < 1000 for i in a + b))
            self.assertGreater(self.server.seen[-1][2] - self.server.seen[-2][2], 0.15)
            azure = os.path.join(d, "a.csv")
            with open(azure, "w") as f:
                f.write("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:48.6805900,100,2\n")
            _, doc = self.bench("--trace", azure, "--speed", 10, "--length-scale", 0.1, "--max-output-len", 3)
            self.assertEqual((doc["prompt_tokens"], doc["output_tokens"]), (37 + 10, 3 + 1))
            with open(azure, "a") as f:
                f.write("nonsense\n")
            rc, _, err = titan("bench", "-u", self.url, "--trace", azure)
            self.assertEqual(rc, 2)
            self.assertIn("line 4", err)

    def test_shared_prefixes(self):
        self.bench("-n", 2, "-c", 1, "--output-len", 1, "--input-len", 600, "--shared-prefix", 500)
        a, b = [s[1]["prompt"].split() for s in self.server.seen[-2:]]
        self.assertEqual(a[:512], b[:512])
        self.assertNotEqual(a[512:], b[512:])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:])
