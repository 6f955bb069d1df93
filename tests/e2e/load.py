"""Many clients at once, and clients that leave: no stream is dropped, no page is kept."""
import asyncio
import json
import socket
import time

from cluster import Cluster, main, until

STREAMS, TOKENS = 200, 24


async def one_stream(host, port, i):
    """(time to the first token, tokens, whether it ended as it should)"""
    body = json.dumps({"prompt": "Story number %d:" % i, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True, "return_token_ids": True}).encode()
    t0 = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    first, n, done = None, 0, False
    while True:
        line = await asyncio.wait_for(reader.readline(), 120)
        if not line:
            break
        if line.startswith(b"data: [DONE]"):
            done = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            assert "error" not in event, event
            for choice in event["choices"]:
                n += len(choice.get("token_ids") or [])
            first = first or time.monotonic() - t0
    writer.close()
    return first, n, done


def two_hundred_streams_at_once():
    with Cluster(2, flags=["--tensor-parallel-size", "2", "--log-level", "warn"]) as c:
        async def all_streams():
            return await asyncio.gather(*(one_stream(*c.address(), i) for i in range(STREAMS)))

        t0 = time.monotonic()
        results = asyncio.run(all_streams())
        took = time.monotonic() - t0
        assert all(done for _, _, done in results), "%d streams were dropped" % sum(not d for _, _, d in results)
        assert all(n == TOKENS for _, n, _ in results), sorted({n for _, n, _ in results})
        until("no page in use", 2, lambda: c.pages_used() == 0)
        ttft = sorted(f for f, _, _ in results)
        assert c.metric("vllm:num_requests_running") == 0
        return "TTFT p50 %.2f s, p99 %.2f s; %.0f tokens/s" % (ttft[STREAMS // 2], ttft[int(STREAMS * 0.99)], STREAMS * TOKENS / took)


def a_client_that_closes_mid_stream_frees_its_pages():
    with Cluster(1) as c:
        s = c.stream({"prompt": "Once upon a time", "max_tokens": 3000, "ignore_eos": True})
        events = s.events()
        for _ in range(5):
            next(events)
        until("pages in use", 2, lambda: c.pages_used() > 0)
        s.close()
        t0 = time.monotonic()
        until("pages back", 1.5, lambda: c.pages_used() == 0)
        return "after %.2f s" % (time.monotonic() - t0)


def a_client_that_closes_before_its_answer_frees_its_pages():
    with Cluster(1) as c:
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 3000, "ignore_eos": True}).encode()
        s = socket.create_connection(c.address())
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        until("it runs", 5, lambda: c.pages_used() > 0)
        s.close()
        t0 = time.monotonic()
        until("pages back", 1.5, lambda: c.pages_used() == 0)
        return "after %.2f s" % (time.monotonic() - t0)


def too_many_requests_get_429():
    with Cluster(1, flags=["--max-num-seqs", "1", "--max-waiting", "2"]) as c:
        held = []
        for running in (True, False, False):  # one after the other: three at once may already be one too many
            held.append(c.stream({"prompt": "Once", "max_tokens": 3000, "ignore_eos": True}))
            if running:
                next(held[0].events())
        until("one runs, two wait", 5, lambda: c.get("/health")[1]["waiting"] == 2)
        status, body = c.post("/v1/completions", {"prompt": "Once", "max_tokens": 4})
        assert status == 429, (status, body)
        for s in held:
            s.close()


if __name__ == "__main__":
    main([two_hundred_streams_at_once, a_client_that_closes_mid_stream_frees_its_pages, a_client_that_closes_before_its_answer_frees_its_pages, too_many_requests_get_429])
