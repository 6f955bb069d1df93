"""The draw written out in plain Python, from kernels/kernel.h's words: penalties, logit_bias, temperature, top_k, top_p, min_p, then Gumbel-max over Philox.

A server's logits differ from those it is fed here in their last bits, so each draw also says whether it was clear: with every logit anywhere within `tol` of its
value, the same ids pass the filters (or those in doubt do not win) and the same id wins.
"""
import functools
import math
import struct

U32 = 0xFFFFFFFF


def philox(key, ctr):
    """Philox4x32-10: the first of the four words."""
    k0, k1 = key & U32, key >> 32 & U32
    c0, c1, c2, c3 = ctr
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & U32, (p0 >> 32) ^ c3 ^ k1, p0 & U32
        k0, k1 = (k0 + 0x9E3779B9) & U32, (k1 + 0xBB67AE85) & U32
    return c0


@functools.lru_cache(1 << 18)
def gumbel(seed, token, position, choice):
    return -math.log(-math.log(((philox(seed, (token, position, choice, 1)) >> 9) + 0.5) / 8388608.0))


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def penalise(logits, prompt, output, p):
    """{id: logit} as the draw sees them. prompt: the ids fed; output: those generated so far."""
    r, freq, pres = (f32(p.get(k, d)) for k, d in (("repetition_penalty", 1), ("frequency_penalty", 0), ("presence_penalty", 0)))
    x = dict(logits)
    for t in set(prompt) | set(output):
        if t in x:
            x[t] = x[t] / r if x[t] > 0 else x[t] * r
            n = output.count(t)
            if n:
                x[t] -= freq * n + pres
    for t, b in p.get("logit_bias", {}).items():
        if int(t) in x:
            x[int(t)] += b
    return x


def nth(v, n, tol):
    """Of v, sorted falling: the lowest logit that may be among the first n, the lowest that surely is."""
    return v[n - 1] - tol, (v[n] + tol if n < len(v) else -math.inf)


def thresholds(x, p, temperature, tol):
    """(may, sure): an id whose logit is below `may` is filtered away, one at or above `sure` is not."""
    v = sorted(x.values(), reverse=True)
    may = sure = -math.inf
    k = p.get("top_k", 0)
    if 0 < k < len(v):
        may, sure = nth(v, k, tol)
        v = [a for a in v if a >= v[k - 1]]
    weight = [math.exp((a - v[0]) / temperature) for a in v]
    top_p = f32(p.get("top_p", 1))
    if top_p < 1:
        total, mass, lo, hi = sum(weight), 0.0, 0, 0
        slack = 2 * tol / temperature
        for i, w in enumerate(weight):
            if mass < (top_p - slack) * total:
                lo = i + 1
            if mass < (top_p + slack) * total:
                hi = i + 1
            mass += w
        may, sure = max(may, nth(v, max(hi, 1), tol)[0]), max(sure, nth(v, max(lo, 1), tol)[1])
    min_p = f32(p.get("min_p", 0))
    if min_p > 0:
        edge = v[0] + temperature * math.log(min_p)
        may, sure = max(may, edge - 2 * tol), max(sure, min(edge + 2 * tol, v[0]))
    return may, sure


def best(x, value):
    """The id with the largest value and the gap to the next."""
    first, second = None, -math.inf
    for t in x:
        a = value(t)
        if first is None or a > first[1]:
            if first is not None:
                second = first[1]
            first = (t, a)
        elif a > second:
            second = a
    return first[0], first[1] - second


def draw(logits, prompt, output, p, seed, choice, tol):
    """(id, clear) of the next token."""
    x = penalise(logits, prompt, output, p)
    temperature = f32(p.get("temperature", 1))
    if temperature == 0:
        t, gap = best(x, lambda i: x[i])
        return t, gap > 2 * tol
    may, sure = thresholds(x, p, temperature, tol)
    position = len(prompt) + len(output)
    noise = {t: gumbel(seed, t, position, choice) for t in x if x[t] >= may}
    t, gap = best(noise, lambda i: x[i] / temperature + noise[i])
    return t, gap > 2 * tol / temperature and x[t] >= sure


def chi_square_limit(freedom, z):
    """The chi-square quantile at z standard deviations (Wilson and Hilferty)."""
    a = 2.0 / (9.0 * freedom)
    return freedom * (1 - a + z * math.sqrt(a)) ** 3
