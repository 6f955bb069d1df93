#!/usr/bin/env python3
"""A bundled Llama model as GGUF, bf16, so that llama.cpp can run it too: dense_gguf.py MODEL_FOLDER OUT.gguf

Tensors keep their bits; rows of q and k are permuted as GGUF's llama wants them (pairs of RoPE side by side), norms become fp32. Standard library only.
"""
import json
import os
import struct
import sys

U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5
GGML_F32, GGML_BF16 = 0, 30
NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STRING:
        return struct.pack("<I", STRING) + text(v)
    return struct.pack("<I" + ("f" if kind == F32 else "I"), kind, v)


def array(kind, items):
    body = b"".join(text(v) if kind == STRING else struct.pack("<i", v) for v in items)
    return struct.pack("<IIQ", ARRAY, kind, len(items)) + body


def metadata(cfg, tok):
    vocab = sorted(tok["model"]["vocab"].items(), key=lambda kv: kv[1])
    tokens = [k for k, _ in vocab]
    special = {t["id"]: t for t in tok["added_tokens"]}
    for i in sorted(special):
        if i >= len(tokens):
            tokens.append(special[i]["content"])
    tokens += ["<unused%d>" % i for i in range(len(tokens), cfg["vocab_size"])]
    merges = [m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]]
    a = "llama."
    return {
        "general.architecture": value(STRING, "llama"), a + "block_count": value(U32, cfg["num_hidden_layers"]), a + "context_length": value(U32, cfg["max_position_embeddings"]),
        a + "embedding_length": value(U32, cfg["hidden_size"]), a + "feed_forward_length": value(U32, cfg["intermediate_size"]), a + "attention.head_count": value(U32, cfg["num_attention_heads"]),
        a + "attention.head_count_kv": value(U32, cfg["num_key_value_heads"]), a + "rope.freq_base": value(F32, cfg["rope_theta"]), a + "rope.dimension_count": value(U32, cfg["head_dim"]),
        a + "attention.layer_norm_rms_epsilon": value(F32, cfg["rms_norm_eps"]), a + "vocab_size": value(U32, cfg["vocab_size"]),
        "tokenizer.ggml.model": value(STRING, "gpt2"), "tokenizer.ggml.pre": value(STRING, "deepseek-v3"), "tokenizer.ggml.tokens": array(STRING, tokens),
        "tokenizer.ggml.token_type": array(I32, [3 if i in special and special[i]["special"] else 1 for i in range(len(tokens))]), "tokenizer.ggml.merges": array(STRING, merges),
        "tokenizer.ggml.bos_token_id": value(U32, cfg["bos_token_id"]), "tokenizer.ggml.eos_token_id": value(U32, cfg["eos_token_id"]),
    }


def permuted(rows, heads):
    """Rows of a head from [first half | second half] to pairs."""
    d = len(rows) // heads
    return [rows[h * d + i % 2 * (d // 2) + i // 2] for h in range(heads) for i in range(d)]


def tensors(folder, cfg):
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        head = json.loads(f.read(n))
        data = f.read()
    for name, t in head.items():
        if name == "__metadata__":
            continue
        if t["dtype"] != "BF16":
            sys.exit("%s: %s; only BF16 is known" % (name, t["dtype"]))
        raw = data[t["data_offsets"][0]:t["data_offsets"][1]]
        part = name.split(".", 3)
        if name == "model.embed_tokens.weight":
            to = "token_embd.weight"
        elif name == "lm_head.weight":
            to = "output.weight"
        elif name == "model.norm.weight":
            to = "output_norm.weight"
        else:
            to = "blk.%s.%s.weight" % (part[2], NAMES[part[3].rsplit(".", 1)[0]])
        if len(t["shape"]) == 1:
            yield to, t["shape"], GGML_F32, b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2))
            continue
        if "q_proj" in name or "k_proj" in name:
            width = 2 * t["shape"][1]
            rows = [raw[i:i + width] for i in range(0, len(raw), width)]
            raw = b"".join(permuted(rows, cfg["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]))
        yield to, t["shape"][::-1], GGML_BF16, raw


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, out = sys.argv[1:]
    with open(os.path.join(folder, "config.json")) as f:
        cfg = json.load(f)
    with open(os.path.join(folder, "tokenizer.json")) as f:
        tok = json.load(f)
    meta, all_tensors = metadata(cfg, tok), list(tensors(folder, cfg))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(all_tensors), len(meta)) + b"".join(text(k) + v for k, v in meta.items())
    offset, body = 0, []
    for name, dims, kind, raw in all_tensors:
        head += text(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, kind, offset)
        body.append(raw + b"\0" * (-len(raw) % 32))
        offset += len(body[-1])
    with open(out, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32) + b"".join(body))


if __name__ == "__main__":
    main()
