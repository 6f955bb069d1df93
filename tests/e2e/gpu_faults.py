"""On a host with a GPU: a cuBLASLt that is not one, and too little memory."""
import os
import sys
import tempfile
import threading

from cluster import Cluster, main

MODEL = "random:llama?layers=2&hidden=512&heads=8&kv_heads=2&ffn=1536&vocab=2048&max_position_embeddings=131072"
PROMPT = [5, 6, 7, 8] * 4
GPU = ["--device", "cuda", "--gpu-memory-utilization", "0.3"]


def serves(env, *words):
    """It starts, says what is missing, and computes."""
    with Cluster(1, model=MODEL, flags=GPU, env=env) as c:
        assert c.complete(PROMPT, max_tokens=8)["usage"]["completion_tokens"] == 8
        lines = [line for line in c.text().splitlines() if "without cuBLASLt" in line]
        assert len(lines) == 1, c.text()
        for w in words:
            assert w in lines[0], lines[0]
        assert c.stop() == 0
        return lines[0].split("slower: ")[-1]


def a_missing_cublaslt_is_a_warning():
    return serves({"TITAN_CUBLASLT": "/no/such/libcublasLt.so.13"}, "/no/such", "No such file")


def a_corrupted_cublaslt_is_a_warning():
    with tempfile.NamedTemporaryFile(suffix=".so") as f:
        f.write(b"\x7fELF" + os.urandom(100000))
        f.flush()
        return serves({"TITAN_CUBLASLT": f.name}, f.name)


def another_library_in_its_place_is_a_warning():
    return serves({"TITAN_CUBLASLT": "libm.so.6"}, "has no cublasLt")


def refused(*words, model, share):
    c = Cluster(1, model=model, flags=["--device", "cuda", "--gpu-memory-utilization", share])
    try:
        c.launch()
        code = c.wait(60)
        end = c.end()
        assert code == end["exit"] and code != 0, (code, end)
        for w in words:
            assert w in end["message"], end["message"]
        assert not c.ranks()
        return end["message"]
    finally:
        c.__exit__(None, None, None)


def too_little_memory_for_the_weights_says_what_would_fit():
    return refused("weights take", "would fit", model="random:llama3-8b", share="0.02")


def too_little_memory_for_the_cache_says_what_would_fit():
    return refused("KV cache", "would fit", model="random:llama3-8b?layers=4&max_position_embeddings=131072", share="0.04")


def watchdog():
    """A hang is a failure, not a wait."""
    t = threading.Timer(200, lambda: os._exit(1))
    t.daemon = True
    t.start()


tests = [a_missing_cublaslt_is_a_warning, a_corrupted_cublaslt_is_a_warning, another_library_in_its_place_is_a_warning,
         too_little_memory_for_the_weights_says_what_would_fit, too_little_memory_for_the_cache_says_what_would_fit]
if not os.path.exists("/dev/nvidiactl"):
    print("skipped: no GPU here")
    sys.exit(77)
watchdog()
main(tests)
