"""Generations of a TitanInfer cluster, by ctypes over libtitan. client/titan.h is the contract; this follows it field by field.

Calls release the GIL; a Client may be used by several threads. NNG does not survive fork(): create clients after it (multiprocessing: "spawn").
"""
import ctypes
import ctypes.util
import glob
import json
import os
import struct

__all__ = ["Client", "Generation", "Chunk", "TitanError"]
__version__ = "0.1.0"

_u8, _u32, _u64, _i32, _int, _float = ctypes.c_uint8, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int32, ctypes.c_int, ctypes.c_float
_str, _size, _p = ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER


class _Error(ctypes.Structure):
    _fields_ = [("code", _int), ("http_code", _int), ("type", ctypes.c_char * 64), ("param", ctypes.c_char * 64), ("message", ctypes.c_char * 512)]


class _Options(ctypes.Structure):
    _fields_ = [(n, _str) for n in ("url", "api_key", "ca_file", "cert_file", "key_file", "server_name", "client_id")] + [
        ("connect_timeout_ms", _u32), ("timeout_ms", _u32)]


class _Request(ctypes.Structure):
    _fields_ = [("prompt", _str), ("prompt_ids", _p(_u32)), ("n_prompt_ids", _size), ("messages_json", _str), ("tools_json", _str),
                ("max_tokens", _u32), ("min_tokens", _u32), ("ignore_eos", _int), ("stop", _p(_str)), ("n_stop", _size), ("stop_ids", _p(_u32)),
                ("n_stop_ids", _size), ("temperature", _float), ("top_p", _float), ("min_p", _float), ("top_k", _i32),
                ("repetition_penalty", _float), ("frequency_penalty", _float), ("presence_penalty", _float), ("has_seed", _int), ("seed", _u64),
                ("logprobs", _int), ("bias_ids", _p(_u32)), ("bias_values", _p(_float)), ("n_bias", _size), ("n", _u32), ("priority", _i32),
                ("timeout_ms", _u32), ("nonce", _u64)]


class _Generation(ctypes.Structure):
    _fields_ = [("id", _u64), ("capability", _u8 * 16), ("n_prompt", _u32)]


class _Cursor(ctypes.Structure):
    _fields_ = [("token", _u32), ("text", _u32)]


class _Chunk(ctypes.Structure):
    _fields_ = [("tokens", _p(_u32)), ("n_tokens", _size), ("logprobs", _p(_float)), ("text", _p(ctypes.c_char)), ("n_text", _size), ("finish", _int),
                ("stop_reason", _str), ("total", _u32)]


class _Rank(ctypes.Structure):
    _fields_ = [("rank", _u32), ("healthy", _int), ("step", _u64), ("age_ms", _u32), ("step_us", _u32), ("device", _str), ("host", _str), ("doing", _str)]


class _Cluster(ctypes.Structure):
    _fields_ = [("model", _str), ("version", _str), ("healthy", _int), ("ranks", _p(_Rank)), ("n_ranks", _size), ("running", _u32), ("waiting", _u32),
                ("pages_used", _u32), ("pages", _u32), ("tokens", _u64), ("metrics", _str)]


def _load():
    here = os.path.dirname(os.path.abspath(__file__))
    tree = sorted(glob.glob(os.path.join(here, "..", "..", "..", "build", "*", "lib", "libtitan.so.0")))
    tried = [os.environ.get("TITAN_LIBRARY"), "libtitan.so.0", ctypes.util.find_library("titan"), *tree]
    for name in filter(None, tried):
        try:
            lib = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        raise ImportError("libtitan.so.0 was not found; build it (cmake --build --preset release --target titan_shared) or set TITAN_LIBRARY")
    err = _p(_Error)
    for name, args in {"titan_open": [_p(_Options), _p(ctypes.c_void_p), err],
                       "titan_submit": [ctypes.c_void_p, _p(_Request), _p(_Generation), err],
                       "titan_next": [ctypes.c_void_p, _p(_Generation), _u32, _p(_Cursor), _u32, _p(_p(_Chunk)), err],
                       "titan_cancel": [ctypes.c_void_p, _p(_Generation), _p(_int), err],
                       "titan_cluster_status": [ctypes.c_void_p, _int, _p(_p(_Cluster)), err]}.items():
        getattr(lib, name).argtypes, getattr(lib, name).restype = args, _int
    lib.titan_close.argtypes, lib.titan_close.restype = [ctypes.c_void_p], None
    lib.titan_chunk_free.argtypes, lib.titan_chunk_free.restype = [_p(_Chunk)], None
    lib.titan_cluster_free.argtypes, lib.titan_cluster_free.restype = [_p(_Cluster)], None
    lib.titan_request_init.argtypes, lib.titan_request_init.restype = [_p(_Request)], None
    lib.titan_status_name.argtypes, lib.titan_status_name.restype = [_int], _str
    return lib


_lib = _load()
_FINISH = ("", "stop", "length", "cancel", "error")


class TitanError(Exception):
    """What libtitan or the server refused. status: "TITAN_ERR_BUSY"...; http_code: the server's or 0; param: the wrong field or ""."""

    def __init__(self, e):
        self.status = _lib.titan_status_name(e.code).decode()
        self.http_code, self.param, self.message = e.http_code, e.param.decode("utf-8", "replace"), e.message.decode("utf-8", "replace")
        super().__init__("%s: %s" % (self.status, self.message))


def _call(f, *args):
    e = _Error()
    if f(*args, ctypes.byref(e)):
        raise TitanError(e)


def _bytes(s):
    return None if s is None else s.encode() if isinstance(s, str) else s


class Chunk:
    """tokens, logprobs (or None), text, finish ("" while it goes on, then stop, length, cancel or error), stop_reason, total."""

    def __init__(self, c):
        self.tokens = c.tokens[: c.n_tokens]
        self.logprobs = c.logprobs[: c.n_tokens] if c.logprobs else None
        self.text = c.text[: c.n_text].decode("utf-8", "replace")
        self.finish = _FINISH[c.finish]
        self.stop_reason = c.stop_reason.decode("utf-8", "replace") if c.stop_reason else None
        self.total = c.total


class Generation:
    """A generation in the server, and where this reader stands in it (choice by choice)."""

    def __init__(self, client, handle, n):
        self._client, self._handle, self._cursors = client, handle, [_Cursor() for _ in range(n)]
        self.n_prompt = handle.n_prompt

    def next(self, wait=5.0, choice=0):
        """What came since the last call; waits up to wait seconds (at most 60) for the first of it."""
        out = _p(_Chunk)()
        _call(_lib.titan_next, self._client._ptr(), ctypes.byref(self._handle), choice, ctypes.byref(self._cursors[choice]), int(wait * 1000), ctypes.byref(out))
        try:
            return Chunk(out.contents)
        finally:
            _lib.titan_chunk_free(out)

    def chunks(self, choice=0, wait=5.0):
        """Chunks until the end; an error of the generation is raised by none of them: look at finish."""
        while True:
            c = self.next(wait, choice)
            if c.tokens or c.text or c.finish:
                yield c
            if c.finish:
                return

    def text(self, choice=0):
        return "".join(c.text for c in self.chunks(choice))

    def cancel(self):
        """False when the server does not know it any more."""
        found = _int()
        _call(_lib.titan_cancel, self._client._ptr(), ctypes.byref(self._handle), ctypes.byref(found))
        return bool(found.value)

    def state(self):
        """Bytes for Client.resume: whoever has them can read and cancel the generation."""
        head = struct.pack("<Q16sII", self._handle.id, bytes(self._handle.capability), self._handle.n_prompt, len(self._cursors))
        return head + b"".join(struct.pack("<II", c.token, c.text) for c in self._cursors)


class Client:
    """A connection. url: tcp://, ipc:// or tls+tcp:// (then ca_file, and server_name where it is not the host's)."""

    def __init__(self, url, api_key=None, ca_file=None, cert_file=None, key_file=None, server_name=None, client_id=None, connect_timeout=5.0, timeout=30.0):
        o = _Options(*map(_bytes, (url, api_key, ca_file, cert_file, key_file, server_name, client_id)), int(connect_timeout * 1000), int(timeout * 1000))
        self._t = ctypes.c_void_p()
        _call(_lib.titan_open, ctypes.byref(o), ctypes.byref(self._t))

    def __del__(self):
        if getattr(self, "_t", None):
            self.close()

    def _ptr(self):
        if not self._t:
            raise ValueError("the client is closed")
        return self._t

    def close(self):
        t, self._t = self._t, None
        if t:
            _lib.titan_close(t)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def submit(self, prompt=None, messages=None, tools=None, stop=(), stop_ids=(), logit_bias=None, seed=None, **fields):
        """prompt: text or a list of ids; or messages: OpenAI's. fields: max_tokens, temperature, top_p, ... as in titan_request."""
        r = _Request()
        _lib.titan_request_init(ctypes.byref(r))
        if isinstance(prompt, (str, bytes)):
            r.prompt = _bytes(prompt)
        elif prompt is not None:
            r.prompt_ids, r.n_prompt_ids = (_u32 * len(prompt))(*prompt), len(prompt)
        r.messages_json = _bytes(json.dumps(messages)) if messages is not None else None
        r.tools_json = _bytes(json.dumps(tools)) if tools is not None else None
        stop = [stop] if isinstance(stop, str) else list(stop)
        r.stop, r.n_stop = (_str * len(stop))(*map(_bytes, stop)), len(stop)
        r.stop_ids, r.n_stop_ids = (_u32 * len(stop_ids))(*stop_ids), len(stop_ids)
        bias = logit_bias or {}
        r.bias_ids, r.bias_values, r.n_bias = (_u32 * len(bias))(*bias.keys()), (_float * len(bias))(*bias.values()), len(bias)
        if seed is not None:
            r.has_seed, r.seed = 1, seed
        known = {name for name, _ in _Request._fields_}
        for name, value in fields.items():
            if name not in known:
                raise TypeError("submit: unknown field %r" % name)
            setattr(r, name, value)
        handle = _Generation()
        _call(_lib.titan_submit, self._ptr(), ctypes.byref(r), ctypes.byref(handle))
        return Generation(self, handle, r.n)

    def complete(self, prompt, **fields):
        """Yields the text piece by piece; cancels when the caller stops reading."""
        g = self.submit(prompt, **fields)
        ended = False
        try:
            for c in g.chunks():
                ended = bool(c.finish)
                if c.text:
                    yield c.text
                if c.finish == "error":
                    raise RuntimeError("the server ended the generation: %s" % c.stop_reason)
        finally:
            if not ended and self._t:
                g.cancel()

    def resume(self, state):
        """The Generation that state() described, in whatever process it was."""
        i, capability, n_prompt, n = struct.unpack_from("<Q16sII", state)
        g = Generation(self, _Generation(i, (_u8 * 16)(*capability), n_prompt), n)
        for k, c in enumerate(g._cursors):
            c.token, c.text = struct.unpack_from("<II", state, 32 + 8 * k)
        return g

    def status(self, metrics=False):
        """A dict: model, version, healthy, ranks, running, waiting, pages_used, pages, tokens, metrics."""
        out = _p(_Cluster)()
        _call(_lib.titan_cluster_status, self._ptr(), int(metrics), ctypes.byref(out))
        try:
            c = out.contents
            ranks = [{n: _plain(getattr(c.ranks[i], n)) for n, _ in _Rank._fields_} for i in range(c.n_ranks)]
            doc = {n: _plain(getattr(c, n)) for n, _ in _Cluster._fields_ if n not in ("ranks", "n_ranks")}
            doc["healthy"] = bool(doc["healthy"])
            return dict(doc, ranks=ranks)
        finally:
            _lib.titan_cluster_free(out)


def _plain(v):
    return v.decode("utf-8", "replace") if isinstance(v, bytes) else v
