#!/usr/bin/env python3
"""The habits of people who use OpenAI's Python client, against any server of this project.

usage: openai_suite.py --base-url http://127.0.0.1:8000 [--api-key KEY] [--model NAME] [TEST...]

Nothing here depends on which model answers: only on shapes, counts, limits and on greedy text being repeatable. Needs the `openai` package.
"""
import argparse
import asyncio
import concurrent.futures
import json
import sys
import time
import traceback
import urllib.request

import openai

ap = argparse.ArgumentParser()
ap.add_argument("--base-url", required=True)
ap.add_argument("--api-key", default="none")
ap.add_argument("--model")
ap.add_argument("tests", nargs="*")
args = ap.parse_args()
ROOT = args.base_url.rstrip("/").removesuffix("/v1")
client = openai.OpenAI(base_url=ROOT + "/v1", api_key=args.api_key, max_retries=0, timeout=60)
MODEL = args.model or client.models.list().data[0].id
PROMPT = "Once upon a time, there was a little cat who lived in a big house with a red door."
USER = [{"role": "user", "content": "Tell me a story about a little cat."}]


def complete(**k):
    return client.completions.create(**{"model": MODEL, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, **k})


def chat(**k):
    return client.chat.completions.create(**{"model": MODEL, "messages": USER, "max_tokens": 12, "temperature": 0, **k})


def call(path, body=None, key=args.api_key):
    """(status, text) of a route that the client does not know."""
    data = None if body is None else json.dumps(body).encode()
    r = urllib.request.Request(ROOT + path, data, {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
    with urllib.request.urlopen(r, timeout=60) as f:
        return f.status, f.read().decode()


def post(path, body):
    return json.loads(call(path, body)[1])


def tokens(text, **k):
    return post("/tokenize", {"prompt": text, **k})["tokens"]


def raises(kind, f, *words):
    try:
        f()
    except kind as e:
        for w in words:
            assert w in str(e), (w, str(e))
        return e
    raise AssertionError("nothing was raised")


# ---- models and plain completions ----


def test_models_list():
    m = client.models.list().data
    assert MODEL in [x.id for x in m] and m[0].object == "model" and m[0].owned_by


def test_models_retrieve():
    assert client.models.retrieve(MODEL).id == MODEL


def test_models_unknown_is_404():
    raises(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"), "no-such-model")


def test_completion():
    r = complete()
    assert r.object == "text_completion" and r.id.startswith("cmpl-") and r.created > 1e9 and r.model == MODEL
    assert len(r.choices) == 1 and r.choices[0].index == 0 and r.choices[0].finish_reason in ("stop", "length")
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens and 0 < r.usage.completion_tokens <= 12


def test_completion_default_is_16_tokens():
    r = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0, extra_body={"ignore_eos": True})
    assert r.usage.completion_tokens == 16


def test_completion_stream_equals_whole():
    assert "".join(c.choices[0].text for c in complete(stream=True)) == complete().choices[0].text


def test_completion_stream_ends_with_reason():
    chunks = list(complete(stream=True))
    assert chunks[-1].choices[0].finish_reason in ("stop", "length") and all(c.choices[0].finish_reason is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1


def test_greedy_is_repeatable():
    assert len({complete().choices[0].text for _ in range(3)}) == 1


def test_greedy_is_repeatable_in_a_crowd():
    want = complete(max_tokens=20).choices[0].text
    with concurrent.futures.ThreadPoolExecutor(16) as ex:
        assert {r.choices[0].text for r in ex.map(lambda _: complete(max_tokens=20), range(32))} == {want}


def test_prompt_of_ids():
    assert complete(prompt=tokens(PROMPT)).choices[0].text == complete().choices[0].text


def test_prompts_in_a_list():
    r = complete(prompt=[PROMPT, "The dog", "A"])
    assert [c.index for c in r.choices] == [0, 1, 2] and r.choices[0].text == complete().choices[0].text


def test_prompts_of_ids_in_a_list():
    r = complete(prompt=[tokens(PROMPT), tokens("The dog")])
    assert r.choices[0].text == complete().choices[0].text and len(r.choices) == 2


def test_prompts_in_a_list_streamed():
    text = {}
    for c in complete(prompt=[PROMPT, "The dog"], stream=True):
        text[c.choices[0].index] = text.get(c.choices[0].index, "") + c.choices[0].text
    assert text[0] == complete().choices[0].text and set(text) == {0, 1}


def test_n_choices():
    r = complete(n=3, temperature=1, seed=1)
    assert [c.index for c in r.choices] == [0, 1, 2]


def test_n_greedy_choices_are_equal():
    assert len({c.text for c in complete(n=3).choices}) == 1


def test_n_streamed():
    reasons = {}
    for c in complete(n=3, stream=True):
        if c.choices[0].finish_reason:
            reasons[c.choices[0].index] = c.choices[0].finish_reason
    assert set(reasons) == {0, 1, 2}


def test_seed_is_repeatable():
    a, b = (complete(temperature=1, seed=42, max_tokens=24).choices[0].text for _ in range(2))
    assert a == b


def test_no_seed_varies():
    assert len({complete(temperature=1, max_tokens=24).choices[0].text for _ in range(6)}) > 1


def test_best_of_is_refused():
    raises(openai.BadRequestError, lambda: complete(best_of=3), "best_of")


def test_suffix_is_refused():
    raises(openai.BadRequestError, lambda: complete(suffix="x"), "suffix")


# ---- stops ----


def test_stop_string():
    whole = complete(max_tokens=20, extra_body={"ignore_eos": True}).choices[0].text
    stop = whole[len(whole) // 2:len(whole) // 2 + 3]
    r = complete(max_tokens=20, stop=stop, extra_body={"ignore_eos": True})
    assert r.choices[0].text == whole[:whole.index(stop)] and r.choices[0].finish_reason == "stop"


def test_stop_list_streamed():
    whole = complete(max_tokens=20).choices[0].text
    stop = whole[len(whole) // 2:len(whole) // 2 + 4]
    text = "".join(c.choices[0].text for c in complete(max_tokens=20, stop=["@@@@", stop], stream=True))
    assert text == whole[:whole.index(stop)]


def test_stop_token_ids():
    ids = complete(max_tokens=10, extra_body={"return_token_ids": True, "ignore_eos": True}).choices[0].token_ids
    r = complete(max_tokens=10, extra_body={"stop_token_ids": [ids[4]], "return_token_ids": True, "ignore_eos": True})
    assert r.choices[0].token_ids == ids[:ids.index(ids[4]) + 1] and r.choices[0].finish_reason == "stop"


def test_min_tokens_and_ignore_eos():
    assert complete(max_tokens=40, extra_body={"ignore_eos": True}).usage.completion_tokens == 40
    assert complete(max_tokens=40, extra_body={"min_tokens": 30}).usage.completion_tokens >= 30


def test_max_tokens_one():
    r = complete(max_tokens=1, extra_body={"ignore_eos": True})
    assert r.usage.completion_tokens == 1 and r.choices[0].finish_reason == "length"


# ---- scores ----


def test_logprobs():
    r = complete(logprobs=3, extra_body={"ignore_eos": True})
    lp = r.choices[0].logprobs
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset) == r.usage.completion_tokens
    assert all(x <= 0 for x in lp.token_logprobs) and all(3 <= len(t) <= 4 for t in lp.top_logprobs)


def test_logprobs_greedy_is_the_best():
    lp = complete(logprobs=1).choices[0].logprobs
    assert all(abs(max(t.values()) - x) < 1e-4 for t, x in zip(lp.top_logprobs, lp.token_logprobs))


def test_logprobs_beyond_20_are_refused():
    raises(openai.BadRequestError, lambda: complete(logprobs=21), "logprobs", "20")


def test_echo():
    assert complete(echo=True).choices[0].text == PROMPT + complete().choices[0].text


def test_echo_scores_the_prompt():
    r = complete(echo=True, logprobs=1, max_tokens=1)
    lp = r.choices[0].logprobs
    assert lp.token_logprobs[0] is None and all(x <= 0 for x in lp.token_logprobs[1:])
    assert len(lp.tokens) == r.usage.prompt_tokens + r.usage.completion_tokens


def test_echo_scores_only_the_prompt():
    r = complete(echo=True, logprobs=0, max_tokens=0)
    assert r.choices[0].text == PROMPT and r.usage.completion_tokens == 0 and len(r.choices[0].logprobs.tokens) == r.usage.prompt_tokens


def test_echo_streamed():
    assert "".join(c.choices[0].text for c in complete(echo=True, stream=True)) == complete(echo=True).choices[0].text


def test_scores_agree_with_the_prompt():
    """What was generated has, as a prompt, the logprobs it had when it was generated."""
    a = complete(logprobs=0, max_tokens=8, extra_body={"return_token_ids": True, "ignore_eos": True}).choices[0]
    b = complete(prompt=a.prompt_token_ids + a.token_ids, echo=True, logprobs=0, max_tokens=0).choices[0]
    assert all(abs(x - y) < 0.05 for x, y in zip(a.logprobs.token_logprobs, b.logprobs.token_logprobs[-8:]))


def test_logit_bias_forces_a_token():
    r = complete(max_tokens=3, logit_bias={"100": 100}, extra_body={"return_token_ids": True})
    if MODEL == "fake-model":
        return  # the fake backend does not sample
    assert r.choices[0].token_ids == [100, 100, 100]


# ---- chat ----


def test_chat():
    r = chat()
    m = r.choices[0].message
    assert r.object == "chat.completion" and r.id.startswith("chatcmpl-") and m.role == "assistant" and isinstance(m.content, str) and not m.tool_calls


def test_chat_stream_equals_whole():
    chunks = list(chat(stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == chat().choices[0].message.content
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_chat_stream_helper():
    with client.chat.completions.stream(model=MODEL, messages=USER, max_tokens=12, temperature=0) as s:
        text = "".join(e.delta for e in s if e.type == "content.delta")
    assert text == chat().choices[0].message.content


def test_chat_max_completion_tokens():
    r = chat(max_tokens=openai.NOT_GIVEN, max_completion_tokens=4, extra_body={"ignore_eos": True})
    assert r.usage.completion_tokens == 4


def test_chat_usage_in_the_stream():
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == chat().usage.total_tokens and all(c.usage is None for c in chunks[:-1])


def test_chat_continuous_usage():
    chunks = list(chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    counts = [c.usage.completion_tokens for c in chunks]
    assert counts == sorted(counts) and counts[-1] == chat().usage.completion_tokens


def test_chat_system_and_history():
    m = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}]
    assert chat(messages=m).usage.prompt_tokens > chat(messages=m[:2]).usage.prompt_tokens


def test_chat_content_parts():
    a = chat(messages=[{"role": "user", "content": [{"type": "text", "text": "Tell me a story."}]}])
    b = chat(messages=[{"role": "user", "content": "Tell me a story."}])
    assert a.choices[0].message.content == b.choices[0].message.content and a.usage.prompt_tokens == b.usage.prompt_tokens


def test_chat_image_is_refused():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    raises(openai.BadRequestError, lambda: chat(messages=[{"role": "user", "content": [part]}]), "image_url")


def test_chat_logprobs():
    lp = chat(logprobs=True, top_logprobs=5).choices[0].logprobs.content
    assert lp and all(len(t.top_logprobs) == 5 and t.logprob <= 0 and t.bytes is not None for t in lp)


def test_chat_logprobs_streamed():
    whole = [t.token for t in chat(logprobs=True).choices[0].logprobs.content]
    assert sum(([t.token for t in c.choices[0].logprobs.content] for c in chat(logprobs=True, stream=True) if c.choices[0].logprobs), []) == whole


def test_chat_top_logprobs_21_is_refused():
    raises(openai.BadRequestError, lambda: chat(logprobs=True, top_logprobs=21), "top_logprobs")


def test_chat_n_and_stop():
    r = chat(n=2, stop=["\n", "zzz"])
    assert len(r.choices) == 2 and all("\n" not in c.message.content for c in r.choices)


def test_chat_tools_are_taken():
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}
    assert chat(tools=[tool], tool_choice="auto").choices[0].message.role == "assistant"


def test_chat_is_the_template():
    """A chat is a completion of what the template renders."""
    ids = post("/tokenize", {"messages": USER})["tokens"]
    assert complete(prompt=ids).choices[0].text == chat().choices[0].message.content


def test_chat_json_mode_is_refused():
    raises(openai.BadRequestError, lambda: chat(response_format={"type": "json_object"}), "response_format")


# ---- errors and the other routes ----


def test_unknown_model():
    e = raises(openai.NotFoundError, lambda: complete(model="no-such-model"), "no-such-model")
    assert e.code == "model_not_found" and e.param == "model"


def test_wrong_key():
    if args.api_key == "none":
        return
    bad = openai.OpenAI(base_url=ROOT + "/v1", api_key="wrong", max_retries=0)
    raises(openai.AuthenticationError, lambda: bad.models.list())
    assert call("/health", key="")[0] == 200


def test_bad_temperature():
    e = raises(openai.BadRequestError, lambda: complete(temperature=-1), "temperature", "-1")
    assert e.param == "temperature" and e.type == "invalid_request_error"


def test_prompt_too_long():
    n = client.models.list().data[0].max_model_len
    e = raises(openai.BadRequestError, lambda: complete(prompt=[5] * (n + 1)), str(n), str(n + 1))
    assert e.code == "context_length_exceeded"


def test_unknown_fields_are_ignored():
    assert complete(extra_body={"no_such_field": {"a": [1]}}).choices


def test_request_id_comes_back():
    r = client.completions.with_raw_response.create(model=MODEL, prompt="a", max_tokens=1, extra_headers={"X-Request-Id": "mine-1"})
    assert r.headers["x-request-id"] == "mine-1" and r.parse().id.endswith("mine-1")


def test_tokenize_and_back():
    ids = tokens(PROMPT, add_special_tokens=False)
    assert post("/detokenize", {"tokens": ids})["prompt"] == PROMPT


def test_health_version_metrics():
    status, text = call("/health")
    assert status == 200 and json.loads(text)["ranks"]
    assert json.loads(call("/version")[1])["version"] and call("/ping")[0] == 200
    assert "# TYPE" in call("/metrics")[1]


def test_stream_closed_early_frees():
    s = complete(max_tokens=500, stream=True, extra_body={"ignore_eos": True})
    next(iter(s))
    s.close()
    end = time.time() + 2
    while any(l.startswith("vllm:num_requests_running") and float(l.split()[-1]) > 0 for l in call("/metrics")[1].splitlines()):
        assert time.time() < end, "still running after 2 s"
        time.sleep(0.05)


def test_async_crowd():
    async def crowd():
        async with openai.AsyncOpenAI(base_url=ROOT + "/v1", api_key=args.api_key, max_retries=0) as c:
            async def one():
                return "".join([x.choices[0].text async for x in await c.completions.create(model=MODEL, prompt=PROMPT, max_tokens=12, temperature=0, stream=True)])
            return await asyncio.gather(*[one() for _ in range(20)])
    assert set(asyncio.run(crowd())) == {complete().choices[0].text}


def main():
    tests = [(n, f) for n, f in globals().items() if n.startswith("test_") and (not args.tests or n in args.tests)]
    failed = 0
    for name, f in tests:
        t = time.time()
        try:
            f()
            print("ok   %-40s %.2f s" % (name, time.time() - t), flush=True)
        except Exception:  # noqa: BLE001 - a test that fails in any way fails
            failed += 1
            print("FAIL %-40s %s" % (name, traceback.format_exc(limit=-2)), flush=True)
    print("%d of %d passed" % (len(tests) - failed, len(tests)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
