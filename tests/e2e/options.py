"""Flags whose effect shows in answers: drafts change the number of steps and no text, a default seed repeats, libtitan's door answers, copies
of experts change no text."""
import os
import subprocess
import sys
import tempfile

from cluster import DENSE, ROOT, Cluster, main

MOE = os.path.join(ROOT, "models", "titan-tiny-moe")
DRAFTS = '{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2}'
REPEATS = "The cat sat. " * 20
ASKS = [dict(prompt="The cat", temperature=0, logit_bias={"300": 100}),  # says one token for ever: every draft stays
        dict(prompt=REPEATS, temperature=0), dict(prompt=REPEATS, temperature=0.7, seed=5),
        dict(prompt="Once upon a time", temperature=0), dict(prompt="Once upon a time", temperature=1, seed=7),
        dict(prompt=REPEATS, temperature=0, frequency_penalty=0.5)]


def texts(c):
    return [c.complete(**ask, max_tokens=80, ignore_eos=True)["choices"][0]["text"] for ask in ASKS]


def drafts_change_no_text():
    def run(model, workers, flags):
        with Cluster(workers, model, flags=flags) as c:
            got = texts(c)
            counts = [c.metric("vllm:spec_decode_num_%s_tokens_total" % what) for what in ("draft", "accepted")]
            assert c.stop() == 0
            return got, counts

    notes = []
    for model, workers, mesh in ((DENSE, 2, ["--tensor-parallel-size", "2"]), (MOE, 2, [])):
        plain, none = run(model, workers, mesh)
        drafted, (n_draft, n_kept) = run(model, workers, mesh + ["--speculative-config", DRAFTS])
        for ask, a, b in zip(ASKS, plain, drafted):
            assert a == b, "%s\nwithout drafts: %r\nwith drafts:    %r" % (ask, a, b)
        assert none == [0, 0], none
        assert 0 < n_kept <= n_draft, (n_draft, n_kept)
        notes.append("%d of %d drafts stay" % (n_kept, n_draft))
    return ", ".join(notes)


def a_wrong_draft_config_is_named():
    for text, part in (('{"method": "eagle"}', "eagle"), ('{"method": "ngram", "num_speculative_tokens": 99}', "num_speculative_tokens")):
        c = Cluster(flags=["--speculative-config", text])
        try:
            c.launch()
            assert c.wait(30) == 2
            assert "--speculative-config" in c.text() and part in c.text(), c.text()
        finally:
            c.__exit__(None, None, None)


def a_default_seed_repeats():
    ask = dict(prompt="Once upon a time", temperature=1, max_tokens=24, ignore_eos=True)

    def run(flags):
        with Cluster(flags=flags) as c:
            return [c.complete(**ask)["choices"][0]["text"] for _ in range(2)] + [c.complete(**ask, seed=11)["choices"][0]["text"]]

    a, b = run(["--seed", "3"]), run(["--seed", "3"])
    assert a == b and a[0] == a[1] and a[0] != a[2], (a, b)
    c = run([])
    assert c[0] != c[1] and c[2] == a[2], (a, c)


def copies_of_experts_change_no_text():
    def run(flags):
        with Cluster(2, MOE, flags=flags) as c:
            got = texts(c)
            copies = c.text().count("placement: version=1 in use")
            assert c.stop() == 0
            return got, copies

    plain, none = run([])
    copied, n = run(["--num-redundant-experts", "4", "--expert-balance-tokens", "100"])
    for ask, a, b in zip(ASKS, plain, copied):
        assert a == b, "%s\nwithout copies: %r\nwith copies:    %r" % (ask, a, b)
    assert none == 0 and n == 2, "%d workers changed their copies" % n


def too_many_copies_are_refused():
    c = Cluster(2, MOE, flags=["--num-redundant-experts", "17"])
    try:
        c.launch()
        assert c.wait(30) == 2
        assert "--num-redundant-experts 17: expected 0..16" in c.text(), c.text()
    finally:
        c.__exit__(None, None, None)


def a_deepseek2_file_says_what_its_model_says():
    ask = dict(prompt="Once upon a time", temperature=0, max_tokens=12)
    with tempfile.TemporaryDirectory() as d:
        gguf = os.path.join(d, "moe.gguf")
        subprocess.run([sys.executable, os.path.join(ROOT, "benchmarks", "cpu", "to_gguf.py"), MOE, gguf], check=True, timeout=60)
        got = []
        for model in (MOE, gguf):
            with Cluster(2, model, flags=["--tensor-parallel-size", "2"]) as c:
                got.append(c.complete(**ask)["choices"][0]["text"])
        assert got[0] == got[1], got


def plain_kernels_say_what_they_cost():
    ask = dict(prompt="Once upon a time", temperature=0, max_tokens=12)
    with Cluster() as c:
        want = c.complete(**ask)["choices"][0]["text"]
        assert "plain C kernels" not in c.text()
    with Cluster(flags=["--cpu-kernels", "ref"]) as c:
        assert c.complete(**ask)["choices"][0]["text"] == want
        assert "plain C kernels: against AVX2 a token takes about 9 times as long" in c.text(), c.text()


def kernels_that_the_processor_lacks_are_refused():
    with open("/proc/cpuinfo") as f:
        if "avx512_vnni" in f.read():
            return "skipped: it has them all"
    c = Cluster(flags=["--cpu-kernels", "vnni"])
    try:
        c.launch()
        assert c.wait(30) == 2
        assert "--cpu-kernels vnni: this processor does not run them; " in c.text(), c.text()
    finally:
        c.__exit__(None, None, None)


def libtitan_has_a_door():
    tool = os.path.join(os.path.dirname(os.environ.get("TITAN_SERVE", os.path.join(ROOT, "build/release/bin/titan-serve"))), "titan")
    if not os.path.exists(tool):
        return "skipped: no titan"
    with tempfile.TemporaryDirectory() as d, Cluster(flags=["--client-url", "ipc://%s/door" % d]) as c:
        want = c.complete("Once upon a time", max_tokens=12)["choices"][0]["text"]
        r = subprocess.run([tool, "complete", "--url", "ipc://%s/door" % d, "-n", "12", "-t", "0", "--prompt", "Once upon a time"],
                           capture_output=True, text=True, timeout=30, check=False)
        assert r.returncode == 0 and r.stdout == want, (r, want)
        assert c.stop() == 0


if __name__ == "__main__":
    main([drafts_change_no_text, a_wrong_draft_config_is_named, a_default_seed_repeats, copies_of_experts_change_no_text, too_many_copies_are_refused,
          a_deepseek2_file_says_what_its_model_says, plain_kernels_say_what_they_cost, kernels_that_the_processor_lacks_are_refused, libtitan_has_a_door])
