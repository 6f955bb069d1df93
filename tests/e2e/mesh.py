"""The golden texts through HTTP on several meshes: the same ids wherever the margin exceeds the tolerance (docs/numerics.md)."""
from concurrent.futures import ThreadPoolExecutor

from cluster import Cluster, golden, main

MARGIN = 1e-3


def check(workers, tp, dp, extra=()):
    prompts = golden()
    with Cluster(workers, flags=["--tensor-parallel-size", str(tp), "--data-parallel-size", str(dp), *extra]) as c:
        def ask(p):
            r = c.complete(p["prompt"], max_tokens=len(p["greedy_ids"]), return_token_ids=True, ignore_eos=True)
            return r["choices"][0]["token_ids"], r["choices"][0]["prompt_token_ids"] if "prompt_token_ids" in r["choices"][0] else r.get("prompt_token_ids"), r["choices"][0]["text"]

        with ThreadPoolExecutor(len(prompts)) as pool:  # all at once: batching must not change a text
            answers = list(pool.map(ask, prompts))
        compared = 0
        for p, (ids, prompt_ids, text) in zip(prompts, answers):
            assert prompt_ids == p["prompt_ids"], "prompt ids %s, golden %s" % (prompt_ids, p["prompt_ids"])
            for i, (got, want) in enumerate(zip(ids, p["greedy_ids"])):
                if p["margin"][i] <= MARGIN:
                    break
                assert got == want, "'%s' step %d: %d, golden %d" % (p["prompt"][:30], i, got, want)
                compared += 1
            else:
                assert len(ids) == len(p["greedy_ids"])
                assert text == p["greedy_text"], "%r\nis not\n%r" % (text, p["greedy_text"])
        assert c.stop() == 0
        return "%d tokens of %d prompts" % (compared, len(prompts))


def one_worker():
    return check(1, 1, 1)


def two_workers_share_each_layer():
    return check(2, 2, 1)


def two_workers_serve_apart():
    return check(2, 1, 2)


def two_groups_of_two():
    return check(4, 2, 2)


def small_pages_and_chunks():
    return check(1, 1, 1, ["--block-size", "8", "--max-num-batched-tokens", "7", "--max-num-seqs", "5"])


if __name__ == "__main__":
    main([one_worker, two_workers_share_each_layer, two_workers_serve_apart, two_groups_of_two, small_pages_and_chunks])
