"""Sampling over HTTP on a cluster of two workers, against sampling_ref.py on recorded logits.

The record comes from the server itself: after a short prompt, the raw logprob of every id of the vocabulary, from prompts that end in that id (echo, logprobs 0,
max_tokens 0). What a logprob lacks to be a logit, a constant, comes from the golden logits that PyTorch wrote for the same prompt; both records must agree.
For later tokens a bias of 60 confines the text to six ids, so that only their logits after each text matter.
TITAN_E2E_MODEL: another model with golden files.
"""
import array
import atexit
import concurrent.futures
import contextlib
import functools
import json
import math
import os
import struct

import sampling_ref as ref
from cluster import DENSE, Cluster, golden, main

MODEL = os.environ.get("TITAN_E2E_MODEL", DENSE)
TP2 = ["--tensor-parallel-size", "2", "--log-level", "warn"]
LENGTH = 8  # of the prompt, a beginning of golden prompt 3: a place where hundreds of words may follow
TOL = 1e-4        # of logits: the same numbers from batches of other shapes
TOL_SHIFT = 1e-3  # of the recorded logits from PyTorch's, which the constant comes from
DRAWS, N = 20000, 125

SETS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.5, "top_k": 50},
    {"top_k": 1},
    {"top_p": 0.9},
    {"top_p": 0.4, "temperature": 1.3},
    {"min_p": 0.05},
    {"temperature": 2, "min_p": 0.02, "top_k": 200, "top_p": 0.95},
    {"temperature": 1.2, "top_k": 30, "top_p": 0.8, "logit_bias": {"18": 2.5, "4": -3}},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7, "temperature": 1.1, "top_p": 0.95, "frequency_penalty": 1, "presence_penalty": -1},
    {"temperature": 0, "logit_bias": {"100": 7.5}},
    {"logit_bias": {str(i): -100 for i in range(0, 1000, 3)}, "temperature": 1.4},
]
LATER = [  # eight tokens long, confined to six ids; warm, for the penalties to change something
    {"temperature": 2},
    {"temperature": 2.5, "frequency_penalty": 1.5},
    {"temperature": 3, "frequency_penalty": -2},
    {"temperature": 2, "presence_penalty": 1.7},
    {"temperature": 3, "repetition_penalty": 1.5, "frequency_penalty": -0.4, "presence_penalty": 0.3},
    {"temperature": 4, "top_k": 3, "frequency_penalty": 1.8},
    {"temperature": 3, "top_p": 0.8, "presence_penalty": 1},
    {"temperature": 4, "min_p": 0.2, "frequency_penalty": 1},
    {"temperature": 0, "frequency_penalty": 2, "presence_penalty": 2},
]


def golden_logits(prompt):
    """PyTorch's logits after `prompt`, which begins golden prompt 3."""
    with open(os.path.join(MODEL, "golden.safetensors"), "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        h = json.loads(f.read(n))["p3.logits"]
        vocab = h["shape"][1]
        f.seek(8 + n + h["data_offsets"][0] + 4 * vocab * (len(prompt) - 1))
        return list(array.array("f", f.read(4 * vocab)))


def log_sum_exp(v):
    top = max(v)
    return top + math.log(sum(math.exp(a - top) for a in v))


def scores(c, prompts):
    """The raw logprob of each prompt's last id."""
    out = []
    for i in range(0, len(prompts), 512):
        body = c.complete(prompts[i:i + 512], max_tokens=0, echo=True, logprobs=0)
        out += [x["logprobs"]["token_logprobs"][-1] for x in body["choices"]]
    return out


class Record:
    """Logits of the whole vocabulary after `prompt`, {id: logit}; made once, on the cluster that the tests share."""

    def __init__(self, c):
        self.prompt = golden(MODEL)[3]["prompt_ids"][:LENGTH]
        pytorch = golden_logits(self.prompt)
        self.shift = log_sum_exp(pytorch)
        raw = scores(c, [self.prompt + [t] for t in range(len(pytorch))])
        assert abs(log_sum_exp(raw)) < 1e-3, "the probabilities sum to %.6f" % math.exp(log_sum_exp(raw))
        self.logits = {t: lp + self.shift for t, lp in enumerate(raw)}
        self.off = max(abs(a - b) for a, b in zip(self.logits.values(), pytorch))
        assert self.off < TOL_SHIFT, "PyTorch's logits differ by %.4f" % self.off


def ids(c, prompt, p, **more):
    """token_ids of every choice."""
    status, body = c.post("/v1/completions", dict({"prompt": prompt, "return_token_ids": True, "ignore_eos": True}, **p, **more), 120)
    assert status == 200, (status, body)
    return [x["token_ids"] for x in sorted(body["choices"], key=lambda x: x["index"])]


stack = contextlib.ExitStack()
atexit.register(stack.close)


@functools.cache
def cluster():
    return stack.enter_context(Cluster(2, model=MODEL, flags=TP2 + ["--max-num-seqs", "256"]))


@functools.cache
def record():
    return Record(cluster())


def tolerance(p, r):
    return max(TOL, 2 * r.off) if p.get("repetition_penalty", 1) != 1 else TOL


class Count:
    def __init__(self):
        self.n = self.unclear = 0

    def compare(self, got, want, clear, what):
        self.n += 1
        self.unclear += not clear
        assert got == want or not clear, "%s: the server chose %d, the reference %d" % (what, got, want)

    def note(self):
        assert self.unclear <= self.n * 0.03, "%d of %d draws were too close to tell" % (self.unclear, self.n)
        return "%d draws equal, %d too close to tell" % (self.n - self.unclear, self.unclear)


def first_tokens_are_the_references():
    """Every set of parameters, over the whole vocabulary: choices of one request, and seeds of all sizes."""
    c = cluster()
    r, count = record(), Count()
    for p in SETS:
        tol = tolerance(p, r)
        jobs = [(7, 16), (0, 1), (2**31, 1), (2**62 + 12345, 1), (-3, 1), (99, 1)]
        for seed, n in jobs:
            for choice, got in enumerate(ids(c, r.prompt, p, seed=seed, n=n, max_tokens=1)):
                want, clear = ref.draw(r.logits, r.prompt, [], p, seed % 2**64, choice, tol)
                count.compare(got[0], want, clear, "%s, seed %d, choice %d" % (p, seed, choice))
    return "%s; PyTorch's logits are within %.1e" % (count.note(), r.off)


def min_tokens_holds_the_end_back():
    c = cluster()
    p = {"temperature": 0, "logit_bias": {"1": 100, "100": 50}, "max_tokens": 6, "return_token_ids": True}
    body = c.post("/v1/completions", dict(p, prompt="Once upon a time", min_tokens=3))[1]["choices"][0]
    assert body["token_ids"][:3] == [100] * 3 and body["finish_reason"] == "stop", body
    body = c.post("/v1/completions", dict(p, prompt="Once upon a time"))[1]["choices"][0]
    assert 100 not in body["token_ids"] and body["finish_reason"] == "stop", body


def later_tokens_are_the_references():
    """Penalties count what was generated: eight tokens under each set."""
    c = cluster()
    r, prompt = record(), record().prompt
    some = sorted(sorted(r.logits, key=r.logits.get)[-5:] + prompt[-1:])
    texts = {}
    bias = {str(t): 60 for t in some}
    for p in LATER:
        for seed in (1, 2, 3):
            for choice, got in enumerate(ids(c, prompt, p, seed=seed, n=3, max_tokens=8, logit_bias=bias)):
                texts[json.dumps(p), seed, choice] = got
    prefixes = sorted({tuple(t[:i]) for t in texts.values() for i in range(8)})
    flat = scores(c, [prompt + list(x) + [t] for x in prefixes for t in some])
    logits = {x: {t: flat[i * len(some) + j] for j, t in enumerate(some)} for i, x in enumerate(prefixes)}
    count, tokens = Count(), set()
    for (key, seed, choice), got in texts.items():
        p = dict(json.loads(key), logit_bias=bias)
        # The constant of a later text is not recorded; under repetition_penalty, which needs it, only the first token is compared
        for i in range(1 if p.get("repetition_penalty", 1) != 1 else 8):
            x = {t: v + r.shift for t, v in logits[tuple(got[:i])].items()}
            want, clear = ref.draw(x, prompt, got[:i], p, seed, choice, tolerance(p, r))
            count.compare(got[i], want, clear, "%s, seed %d, choice %d, token %d" % (key, seed, choice, i))
            tokens.add(got[i])
    assert len(tokens) > 2, "the text hardly varies: %s" % tokens
    return count.note()


def golden_texts_score_as_greedy():
    """As lm-eval scores: ids of prompt and text, echo, logprobs 1, one token more; greedy is where the logprob equals the best one, bit for bit."""
    texts = golden(MODEL)
    body = cluster().complete([x["prompt_ids"] + x["greedy_ids"] for x in texts], echo=True, logprobs=1, max_tokens=1)
    n, off = 0, 0.0
    for x, choice in zip(texts, body["choices"]):
        first, lp = len(x["prompt_ids"]), choice["logprobs"]
        got, best = lp["token_logprobs"][first:-1], lp["top_logprobs"][first:-1]
        assert len(got) == len(x["greedy_ids"])
        for i, (a, b) in enumerate(zip(got, best)):
            assert a == max(b.values()) or x["margin"][i] < 1e-3, "token %d: %r of %r" % (i, a, b)
            n, off = n + 1, max(off, abs(a - x["logprob"][i]))
    assert off < TOL_SHIFT, "PyTorch's logprobs differ by %.4f" % off
    return "%d tokens; PyTorch's logprobs are within %.1e" % (n, off)


def twenty_thousand_draws_follow_the_softmax():
    c = cluster()
    r = record()
    seen = {}
    with concurrent.futures.ThreadPoolExecutor(4) as ex:
        for batch in ex.map(lambda s: ids(c, r.prompt, {}, seed=s, n=N, max_tokens=1), range(DRAWS // N)):
            for (t,) in batch:
                seen[t] = seen.get(t, 0) + 1
    expected = {t: DRAWS * math.exp(v - r.shift) for t, v in r.logits.items()}
    cells = [(seen.get(t, 0), e) for t, e in expected.items() if e >= 5]
    rest = sum(e for e in expected.values() if e < 5)
    if rest >= 5:
        cells.append((DRAWS - sum(o for o, _ in cells), rest))
    assert len(cells) >= 20, "a distribution of %d cells tells little" % len(cells)
    chi2, limit = sum((o - e) ** 2 / e for o, e in cells), ref.chi_square_limit(len(cells) - 1, 3.09)  # p = 0.001
    assert sum(seen.values()) == DRAWS and chi2 < limit, "chi-square %.1f, at most %.1f" % (chi2, limit)
    return "chi-square %.1f over %d cells, at most %.1f" % (chi2, len(cells), limit)


def a_seed_gives_its_text_whatever_else_runs():
    body = {"prompt": "Once upon a time, there was a", "temperature": 1, "seed": 4711, "max_tokens": 48, "ignore_eos": True, "return_token_ids": True}
    others = [{"prompt": "Story %d: %s" % (i, "the cat sat on the mat. " * (i % 5)), "temperature": 0.5 + i / 8, "max_tokens": 80, "ignore_eos": True, "top_k": 40 * (i % 2), "logprobs": 3 if i % 3 == 0 else None}
              for i in range(10)]
    texts = []
    for workers, flags in ((2, TP2), (2, TP2 + ["--max-num-seqs", "4", "--max-num-batched-tokens", "8"]), (1, ["--log-level", "warn"])):
        with Cluster(workers, model=MODEL, flags=flags) as c, concurrent.futures.ThreadPoolExecutor(12) as ex:
            alone = [c.post("/v1/completions", body)[1]["choices"][0]["token_ids"] for _ in range(2)]
            crowd = [ex.submit(c.post, "/v1/completions", o) for o in others]
            same = [ex.submit(c.post, "/v1/completions", body) for _ in range(2)]
            both = c.post("/v1/completions", dict(body, n=3))[1]["choices"]
            alone += [f.result()[1]["choices"][0]["token_ids"] for f in same] + [both[0]["token_ids"]]
            assert all(f.result()[0] == 200 for f in crowd)
            assert len({tuple(x["token_ids"]) for x in both}) == 3, "choices of one request are equal"
            assert all(t == alone[0] for t in alone), "%s: a seed gave %d texts" % (flags, len({tuple(t) for t in alone}))
            texts.append(alone[0])
    assert texts[0] == texts[1] == texts[2], "the text depends on chunks or mesh"
    return "15 times the same 48 tokens, alone and among others, on three clusters"


if __name__ == "__main__":
    main([first_tokens_are_the_references, min_tokens_holds_the_end_back, later_tokens_are_the_references, golden_texts_score_as_greedy, twenty_thousand_draws_follow_the_softmax, a_seed_gives_its_text_whatever_else_runs])
