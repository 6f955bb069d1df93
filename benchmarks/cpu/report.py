#!/usr/bin/env python3
"""TitanInfer on a CPU, beside llama.cpp in the same run: the tables of docs/reports/cpu.md.

  benchmarks/cpu/report.py [--llama BIN_DIR] [--model PATH.gguf] [--data DIR] [--build DIR] [--threads N] [--rounds N] [--only PART,..]
                            [--subjects NAME,..] [--out FILE.md]

--llama: the folder of llama-bench, llama-server and llama-quantize, built with native flags; without it, ours alone. --model: SmolLM2's GGUF
(launch/fetch-model.sh smollm2 prints it, and is asked when the flag is left out). --data: prompts and texts (../shared/data); parts that want them are
skipped without. Parts: engine, serve, ngram, mesh, table; subjects: SmolLM2, titan-tiny-dense, titan-tiny-moe. About 9 minutes on two idle cores; what runs alternates between ours and theirs, and figures are
medians of the rounds. llama.cpp's threads spin: on a busy machine its figures collapse, so the report says how many CPUs others took.
"""
import argparse
import json
import lzma
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
from cluster import Cluster, until

CONCURRENCY = (1, 8)
DENSE = os.path.join(ROOT, "models", "titan-tiny-dense")
MOE = os.path.join(ROOT, "models", "titan-tiny-moe")


class Subject:
    """A model as we run it and as llama.cpp does. bars: least (prefill, decode, server at 1 stream, at 8) / each peer; requests: at 1 stream, at 8.
    even: two tensor-parallel ranks can share its heads. sparse: a token reads some experts only, so that the file's size is no bound."""

    def __init__(self, name, ours, path, peers, bars, requests, even, sparse=False):
        self.name, self.ours, self.path, self.peers, self.bars, self.requests, self.even, self.sparse = name, ours, path, peers, bars, requests, even, sparse
        self.bytes = os.path.getsize(path) if os.path.isfile(path) else os.path.getsize(os.path.join(path, "model.safetensors"))


def median(values):
    return statistics.median(values) if values else float("nan")


def tcp_port():
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def rss_mib(pids, key="VmRSS"):
    total = 0
    for pid in pids:
        try:
            with open("/proc/%d/status" % pid) as f:
                total += sum(int(line.split()[1]) for line in f if line.startswith(key + ":"))
        except OSError:
            pass
    return total / 1024


class Load:
    """CPU seconds that the whole machine and this process's descendants have used."""

    def __init__(self):
        self.t, self.busy, self.own = time.monotonic(), self.machine(), self.mine()

    @staticmethod
    def machine():
        with open("/proc/stat") as f:
            v = [int(x) for x in f.readline().split()[1:]]
        return (v[0] + v[1] + v[2] + v[5] + v[6]) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def mine():
        parent, used = {}, {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open("/proc/%s/stat" % name) as f:
                        v = f.read().rsplit(")", 1)[1].split()
                    parent[int(name)], used[int(name)] = int(v[1]), sum(int(x) for x in v[11:15])
                except (OSError, IndexError):
                    pass
        total, mine = 0, {os.getpid()}
        for pid in used:
            chain = [pid]
            while chain[-1] in parent and chain[-1] not in mine:
                chain.append(parent[chain[-1]])
            if chain[-1] in mine:
                mine.update(chain)
                total += used[pid]
        return total / os.sysconf("SC_CLK_TCK")

    def others(self):
        """CPUs that others have taken since, and those of our own processes whose parents have not waited for them (a cluster's ranks)."""
        return max(0.0, ((self.machine() - self.busy) - (self.mine() - self.own)) / (time.monotonic() - self.t))


class Llama:
    """A llama-server, with the calls of Cluster that this file wants."""

    def __init__(self, o, gguf, slots):
        self.port = tcp_port()
        self.url = "http://127.0.0.1:%d" % self.port
        self.cmd = [os.path.join(o.llama, "llama-server"), "-m", gguf, "-t", str(o.threads), "-np", str(slots), "-c", str(512 * slots), "--port", str(self.port), "--host", "127.0.0.1"]
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(self.cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("llama-server's /health", 60, self.healthy, 0.005)
        return self

    def healthy(self):
        try:
            return urllib.request.urlopen(self.url + "/health", timeout=5).status == 200
        except OSError:
            return False

    def pids_all(self):
        return [self.process.pid]

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Titan(Cluster):
    def __init__(self, o, model, flags=(), workers=1, threads=None):
        super().__init__(workers, model, ["--threads", str(threads or o.threads), "--max-num-seqs", "8", "--max-model-len", "512", "--log-level", "warn", *flags])

    def pids_all(self):
        return list(self.pids.values())


def run(cmd, timeout=120):
    r = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    if r.returncode:
        raise RuntimeError("%s: exit %d\n%s" % (" ".join(cmd), r.returncode, (r.stderr or r.stdout)[-2000:]))
    return r.stdout


def bench(o, url, *flags):
    return json.loads(run([os.path.join(o.build, "bin", "titan"), "bench", "-u", url, "--json", "-q", *flags], 300))


def engine(o, model, threads, *flags):
    with tempfile.NamedTemporaryFile("r", suffix=".json") as f:
        run([os.path.join(o.build, "bin", "model_bench"), "--model", model, "--threads", str(threads), "--reps", "1", "--table", "0", "--json", f.name, *flags])
        return json.load(f)


def llama_bench(o, gguf):
    rows = json.loads(run([os.path.join(o.llama, "llama-bench"), "-m", gguf, "-p", "512", "-n", "128", "-t", str(o.threads), "-r", "1", "-o", "json"], 300))
    return {("prefill" if r["n_prompt"] else "decode_1"): r["avg_ts"] for r in rows}


class Report:
    def __init__(self):
        self.lines, self.bars = [], []

    def say(self, text=""):
        print(text, flush=True)
        self.lines.append(text)

    def table(self, head, rows):
        self.say("| " + " | ".join(head) + " |")
        self.say("|" + "---|" * len(head))
        for r in rows:
            self.say("| " + " | ".join(r) + " |")
        self.say()

    def bar(self, what, value, least=None, most=None):
        """A requirement: value >= least, or <= most."""
        if value != value:
            return self.bars.append((what, "not measured", "-", "skipped"))
        met = value >= least if least is not None else value <= most
        self.bars.append((what, "%.2f" % value, ">= %.2f" % least if least is not None else "<= %.2f" % most, "met" if met else "NOT met"))


# ---- the engine alone ----

NOTHING = {"prefill": float("nan"), "decode_1": float("nan")}


def part_engine(o, r):
    for m in o.subjects:
        ours, theirs, single = [], {q: [] for q in m.peers}, []
        for _ in range(o.rounds):
            ours.append(engine(o, m.path, o.threads))
            for q, gguf in m.peers.items():
                theirs[q].append(llama_bench(o, gguf))
            single.append(engine(o, m.path, 1, "--seqs", "1", "--gen", "32"))
        mine = {k: median([x[k] for x in ours]) for k in ("prefill", "decode_1", "decode_n", "read_gbs", "fma_gflops")}
        one = {k: median([x[k] for x in single]) for k in ("prefill", "decode_1")}
        peer = {q: {k: median([x[k] for x in v]) for k in ("prefill", "decode_1")} for q, v in theirs.items()}
        r.say("## %s, the engine alone: %d threads, tokens/s, medians of %d (model_bench, llama-bench)\n" % (m.name, o.threads, o.rounds))
        r.table(["", "prefill 512", "decode 128, 1 stream", "8 streams"],
                [[m.ours, "%.0f" % mine["prefill"], "%.0f" % mine["decode_1"], "%.0f" % mine["decode_n"]]] +
                [[q, "%.0f" % p["prefill"], "%.0f" % p["decode_1"], ""] for q, p in peer.items()] +
                [[m.ours + ", 1 thread", "%.0f" % one["prefill"], "%.0f" % one["decode_1"], ""]])
        limit = mine["read_gbs"] * 1e9 / m.bytes
        reads = "" if m.sparse else "; a token reads %.1f MB: %.0f tokens/s at one stream from memory" % (m.bytes / 1e6, limit)
        r.say("The machine reads %.1f GB/s and does %.0f GFLOP/s of fp32 FMA at %d threads%s.\n" % (mine["read_gbs"], mine["fma_gflops"], o.threads, reads))
        for q, (prefill, decode, _, _) in m.bars.items():
            r.bar("%s: prefill / %s" % (m.name, q), mine["prefill"] / peer.get(q, NOTHING)["prefill"], prefill)
            r.bar("%s: decode, 1 stream / %s" % (m.name, q), mine["decode_1"] / peer.get(q, NOTHING)["decode_1"], decode)
        if m.bytes > 64e6:  # beyond the caches
            r.bar("%s: decode, 1 stream / bandwidth limit" % m.name, mine["decode_1"] / limit, 0.65)
            if o.threads >= 2:
                r.bar("%s: prefill, %d threads / 1 thread" % (m.name, o.threads), mine["prefill"] / one["prefill"], 0.9 * o.threads)


def part_table(o, r):
    r.say("## Where a step's time goes (model_bench, every op timed)\n\n```")
    r.say(run([os.path.join(o.build, "bin", "model_bench"), "--model", o.subjects[0].path, "--threads", str(o.threads), "--reps", "3"], 180).strip() + "\n```\n")


# ---- servers ----

def start_figures(o, r, makers):
    """Median exec-to-/health in ms, taken in turns; RSS when ready."""
    ms, rss = {n: [] for n in makers}, {n: [] for n in makers}
    for _ in range(o.rounds):
        for name, make in makers.items():
            t0 = time.monotonic()
            c = make()
            with c:
                until("health", 60, lambda: urllib.request.urlopen(c.url + "/health", timeout=5).status == 200, 0.005)
                ms[name].append((time.monotonic() - t0) * 1e3)
                rss[name].append(rss_mib(c.pids_all()))
    return {n: median(v) for n, v in ms.items()}, {n: median(v) for n, v in rss.items()}


def part_serve(o, r):
    for m in o.subjects:
        serve(o, r, m)


def serve(o, r, m):
    makers = {m.ours: lambda: Titan(o, m.path)}
    for q, gguf in m.peers.items():
        if m.bars[q][2]:
            makers[q] = lambda gguf=gguf: Llama(o, gguf, 8)
    start, ready = start_figures(o, r, makers)
    got = {n: {c: [] for c in CONCURRENCY} for n in makers}
    servers = {}
    try:
        for name, make in makers.items():
            servers[name] = make()
            servers[name].__enter__()
        for i in range(o.rounds):
            for c in CONCURRENCY:
                for name, s in servers.items():
                    got[name][c].append(bench(o, s.url, "-c", str(c), "-n", str(m.requests[c]), "--input-len", "100", "--output-len", "128", "--seed", str(i)))
        after = {n: rss_mib(s.pids_all()) for n, s in servers.items()}
    finally:
        for s in servers.values():
            s.__exit__(None, None, None)

    def of(name, c, get):
        return median([get(x) for x in got[name][c]]) if name in got else float("nan")

    rate = lambda x: x["output_tokens_per_s"]
    ttft = lambda x: x["ttft_ms"]["p50"]
    tpot = lambda x: 1e3 / x["tpot_ms"]["p50"]
    r.say("## %s through the servers: closed loop, prompts of ~100 tokens, 128 tokens out, the client on the same cores; medians of %d\n" % (m.name, o.rounds))
    r.table(["", "1 stream tok/s", "while decoding", "TTFT p50 ms", "8 streams tok/s", "TTFT p50 ms", "start to /health ms", "RSS ready MiB", "after load"],
            [[n, "%.0f" % of(n, 1, rate), "%.0f" % of(n, 1, tpot), "%.0f" % of(n, 1, ttft), "%.0f" % of(n, 8, rate), "%.0f" % of(n, 8, ttft), "%.0f" % start[n],
              "%.0f" % ready[n], "%.0f" % after[n]] for n in makers])
    r.say("RSS and start-up of titan are those of all its processes (coordinator, worker) behind mpirun; tok/s counts the prompts' time, \"while decoding\" does not.\n")
    if m.bytes > 64e6:
        r.bar("%s: 1 stream while decoding, tok/s" % m.name, of(m.ours, 1, tpot), 170)
    nan = float("nan")
    for q, (_, _, one, eight) in m.bars.items():
        if not one:
            continue
        r.bar("%s: 1 stream through the server / %s" % (m.name, q), of(m.ours, 1, rate) / of(q, 1, rate), one)
        r.bar("%s: 8 streams through the server / %s" % (m.name, q), of(m.ours, 8, rate) / of(q, 8, rate), eight)
        if m.bytes <= 64e6:  # of the small model only speeds are asked
            continue
        r.bar("%s: 8 streams, TTFT p50 / %s" % (m.name, q), of(m.ours, 8, ttft) / of(q, 8, ttft), most=1.0)
        r.bar("%s: RSS after load / %s" % (m.name, q), after[m.ours] / after.get(q, nan), most=1.0)
        r.bar("%s: start to /health / %s" % (m.name, q), start[m.ours] / start.get(q, nan), most=1.0)


# ---- n-gram drafts ----

def edit_set(path, data, n=10):
    """Paragraphs with typing errors, to be repeated without: outputs that repeat the prompt."""
    rng = random.Random(7)
    with lzma.open(os.path.join(data, "wikitext2_test.txt.xz"), "rt") as f:
        text = f.read()
    plain = [re.sub(r"\s+([,.;:)\]])", r"\1", re.sub(r" @([-,.])@ ", r"\1", p.strip())) for p in text.split("\n") if 300 < len(p) < 520 and "<unk>" not in p and " = " not in p]
    asks = ["Correct the spelling of this text and repeat it in full:", "Copy this text word for word, with its spelling corrected:", "Repeat the text below, fixing typing errors:"]
    with open(path, "w") as f:
        for i, p in enumerate(rng.sample(plain, n)):
            words = p.split(" ")
            for j in rng.sample(range(3, len(words)), 4):
                if len(words[j]) > 4:
                    words[j] = words[j][1] + words[j][0] + words[j][2:]
            f.write(json.dumps({"prompt": asks[i % 3] + "\n\n" + " ".join(words)}) + "\n")


def texts(c, prompts, n):
    out = []
    for p in prompts:
        for more in ({"temperature": 0}, {"temperature": 0.8, "seed": 11}):
            status, body = c.post("/v1/chat/completions", dict({"messages": [{"role": "user", "content": p}], "max_tokens": n}, **more))
            if status != 200:
                raise RuntimeError("chat: %s %s" % (status, body))
            out.append(body["choices"][0]["message"]["content"])
    return out


def part_ngram(o, r):
    if not o.data or not os.path.exists(os.path.join(o.data, "wikitext2_test.txt.xz")):
        return r.say("## N-gram drafts: skipped, no --data\n")
    with tempfile.TemporaryDirectory() as tmp:
        edit = os.path.join(tmp, "edit.jsonl")
        edit_set(edit, o.data)
        sets = {"edit (wikitext paragraphs with typing errors, to be repeated without)": (edit, 10, 120, []), "mt_bench prompts": (os.path.join(o.data, "prompts", "mt_bench.jsonl"), 8, 64, ["--stop-at-eos"])}
        on = ["--speculative-config", json.dumps({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 5})]
        rows = []
        with Titan(o, o.subjects[0].path, ["--max-model-len", "1024"]) as a, Titan(o, o.subjects[0].path, ["--max-model-len", "1024", *on]) as b:
            with open(edit) as f:
                prompts = [json.loads(line)["prompt"] for line in f][:3]
            same = texts(a, prompts, 80) == texts(b, prompts, 80)
            for name, (path, n, out, more) in sets.items():
                got = {}
                before = [b.metric("vllm:spec_decode_num_%s_tokens_total" % k) for k in ("draft", "accepted")]
                for i in range(min(3, o.rounds)):
                    for c in (a, b):
                        x = bench(o, c.url, "-c", "1", "-n", str(n), "--endpoint", "chat", "--prompts", path, "--output-len", str(out), "--temperature", "0", "--stop-at-eos", *more)
                        got.setdefault(c, []).append((x["output_tokens_per_s"], 1e3 / x["tpot_ms"]["p50"]))
                drafted, kept = [b.metric("vllm:spec_decode_num_%s_tokens_total" % k) - v for k, v in zip(("draft", "accepted"), before)]
                gain, decode = [median([y[i] / x[i] for x, y in zip(got[a], got[b])]) for i in (0, 1)]
                rows.append([name, "%.0f" % median([x for x, _ in got[a]]), "%.0f" % median([x for x, _ in got[b]]), "%.2f" % gain, "%.2f" % decode, "%.0f of %.0f" % (kept, drafted)])
                r.bar("n-gram, %s, with / without" % name.split(" ")[0], gain, 1.5 if path == edit else 0.97)
    r.say("## N-gram drafts, %s, one stream, greedy (`--speculative-config '%s'`)\n" % (o.subjects[0].name, on[1]))
    r.table(["set", "tok/s without", "with", "ratio", "ratio while decoding", "drafts kept"], rows)
    r.say("Greedy and seeded texts of 3 prompts with and without drafts: %s.\n" % ("the same" if same else "DIFFERENT"))
    r.bar("n-gram: texts as without (1: yes)", float(same), 1.0)


# ---- meshes ----

def part_mesh(o, r):
    if o.threads < 2:
        return r.say("## Meshes: skipped, one thread\n")
    half = o.threads // 2
    for m in o.subjects:
        kinds = {"1 worker, %d threads" % o.threads: ([], 1, o.threads), "dp 2, %d each" % half: (["--data-parallel-size", "2"], 2, half)}
        if m.even:
            kinds["tp 2, %d each" % half] = (["--tensor-parallel-size", "2"], 2, half)
        got = {k: {c: [] for c in CONCURRENCY} for k in kinds}
        for _ in range(min(3, o.rounds)):
            for k, (flags, workers, threads) in kinds.items():
                with Titan(o, m.path, flags, workers, threads) as c:
                    for n in CONCURRENCY:
                        got[k][n].append(bench(o, c.url, "-c", str(n), "-n", str(2 * n), "--input-len", "100", "--output-len", "64")["output_tokens_per_s"])
        r.say("## %s: meshes on the same cores, tok/s through the server, medians of %d\n" % (m.name, min(3, o.rounds)))
        r.table(["", "1 stream", "8 streams"], [[k, "%.0f" % median(v[1]), "%.0f" % median(v[8])] for k, v in got.items()])
        if not m.even:
            r.say("tp 2: skipped, its 9 heads of 3 KV heads are not divided by 2.\n")


def subjects_of(o, tmp):
    """SmolLM2 as it is, and requantised to the format that llama.cpp is fast in; the bundled models, which llama.cpp gets as GGUF in bf16."""
    smol, dense, moe, q4_0, q4_1, bf16 = {}, {}, {}, "llama.cpp Q4_0", "llama.cpp Q4_1", "llama.cpp bf16"
    if o.llama:
        smol = {q4_0: os.path.join(tmp, "q4_0.gguf"), q4_1: o.model}
        run([os.path.join(o.llama, "llama-quantize"), "--allow-requantize", o.model, smol[q4_0], "Q4_0", str(o.threads)])
        for folder, peers in ((DENSE, dense), (MOE, moe)):
            peers[bf16] = os.path.join(tmp, os.path.basename(folder) + ".gguf")
            run([sys.executable, os.path.join(ROOT, "benchmarks", "cpu", "to_gguf.py"), folder, peers[bf16]])
    return [Subject("SmolLM2", "titan Q4_1", o.model, smol, {q4_0: (1.2, 1.0, 1.0, 1.3), q4_1: (2.4, 1.6, None, None)}, {1: 3, 8: 16}, False),
            Subject("titan-tiny-dense", "titan bf16", DENSE, dense, {bf16: (1.0, 1.0, 1.0, 1.0)}, {1: 12, 8: 64}, True),
            Subject("titan-tiny-moe", "titan FP8", MOE, moe, {bf16: (1.0, 1.0, 1.0, 1.0)}, {1: 6, 8: 32}, True, sparse=True)]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = os.path.join(ROOT, "..", "shared", "data")
    p.add_argument("--llama")
    p.add_argument("--model")
    p.add_argument("--data", default=shared if os.path.isdir(shared) else None)
    p.add_argument("--build", default=os.path.join(ROOT, "build", "release"))
    p.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--only", default="engine,serve,ngram,mesh,table")
    p.add_argument("--subjects", default="SmolLM2,titan-tiny-dense,titan-tiny-moe")
    p.add_argument("--out")
    o = p.parse_args()
    if not o.model:
        o.model = run([os.path.join(ROOT, "launch", "fetch-model.sh"), "smollm2"], 600).strip()
    os.environ["TITAN_SERVE"] = os.path.join(o.build, "bin", "titan-serve")
    parts = {"engine": part_engine, "serve": part_serve, "ngram": part_ngram, "mesh": part_mesh, "table": part_table}
    r = Report()
    if not o.llama:
        r.say("llama.cpp: skipped (no --llama)\n")
    t0, load = time.monotonic(), Load()
    with tempfile.TemporaryDirectory() as tmp:
        o.subjects = [s for s in subjects_of(o, tmp) if s.name in o.subjects.split(",")]
        for name in o.only.split(","):
            t = time.monotonic()
            parts[name](o, r)
            print("[%s: %.0f s]" % (name, time.monotonic() - t), file=sys.stderr, flush=True)
    r.say("## Against the bars\n")
    r.table(["what", "value", "bar", ""], [list(b) for b in r.bars])
    r.say("%.0f s; other processes took at most %.2f of the CPUs meanwhile (ranks that nobody waited for are among them).\n" % (time.monotonic() - t0, load.others()))
    if o.out:
        with open(o.out, "w") as f:
            f.write("\n".join(r.lines))


if __name__ == "__main__":
    main()
