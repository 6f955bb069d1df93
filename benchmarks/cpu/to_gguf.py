#!/usr/bin/env python3
"""A bundled model as GGUF, bf16, so that llama.cpp can run it too: to_gguf.py MODEL_FOLDER OUT.gguf

Llama: tensors keep their bits; rows of q and k are permuted as GGUF's llama wants them (pairs of RoPE side by side).
DeepSeek-V3: FP8 becomes bf16 (code times scale, rounded), kv_b is split into attn_k_b (transposed) and attn_v_b, experts are stacked, the MTP layer is
left out, the router is fp32. Norms are fp32 in both. Standard library only.
"""
import array
import json
import os
import struct
import sys

U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
GGML_F32, GGML_BF16 = 0, 30
NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
         "self_attn.kv_a_layernorm": "attn_kv_a_norm", "mlp.gate": "ffn_gate_inp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
         "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp"}
STACKS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}


# ---- metadata ----

def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STRING:
        return struct.pack("<I", STRING) + text(v)
    return struct.pack({F32: "<If", BOOL: "<I?"}.get(kind, "<II"), kind, v)


def array_of(kind, items):
    body = b"".join(text(v) if kind == STRING else struct.pack("<i", v) for v in items)
    return struct.pack("<IIQ", ARRAY, kind, len(items)) + body


def tokenizer(cfg, tok):
    vocab = sorted(tok["model"]["vocab"].items(), key=lambda kv: kv[1])
    tokens = [k for k, _ in vocab]
    special = {t["id"]: t for t in tok["added_tokens"]}
    for i in sorted(special):
        if i >= len(tokens):
            tokens.append(special[i]["content"])
    tokens += ["<unused%d>" % i for i in range(len(tokens), cfg["vocab_size"])]
    merges = [m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]]
    return {"tokenizer.ggml.model": value(STRING, "gpt2"), "tokenizer.ggml.pre": value(STRING, "deepseek-v3"), "tokenizer.ggml.tokens": array_of(STRING, tokens),
            "tokenizer.ggml.token_type": array_of(I32, [3 if i in special and special[i]["special"] else 1 for i in range(len(tokens))]),
            "tokenizer.ggml.merges": array_of(STRING, merges), "tokenizer.ggml.bos_token_id": value(U32, cfg["bos_token_id"]),
            "tokenizer.ggml.eos_token_id": value(U32, cfg["eos_token_id"])}


def metadata(cfg, arch):
    u, f = lambda v: value(U32, v), lambda v: value(F32, v)
    keys = {"block_count": u(cfg["num_hidden_layers"]), "context_length": u(cfg["max_position_embeddings"]), "embedding_length": u(cfg["hidden_size"]),
            "feed_forward_length": u(cfg["intermediate_size"]), "attention.head_count": u(cfg["num_attention_heads"]), "rope.freq_base": f(cfg["rope_theta"]),
            "attention.layer_norm_rms_epsilon": f(cfg["rms_norm_eps"]), "vocab_size": u(cfg["vocab_size"])}
    if arch == "llama":
        keys.update({"attention.head_count_kv": u(cfg["num_key_value_heads"]), "rope.dimension_count": u(cfg["head_dim"])})
    else:
        rope, lora, s = cfg["qk_rope_head_dim"], cfg["kv_lora_rank"], cfg["rope_scaling"]
        keys.update({
            "attention.head_count_kv": u(1), "attention.q_lora_rank": u(cfg["q_lora_rank"]), "attention.kv_lora_rank": u(lora), "attention.key_length": u(lora + rope),
            "attention.value_length": u(lora), "attention.key_length_mla": u(cfg["qk_nope_head_dim"] + rope), "attention.value_length_mla": u(cfg["v_head_dim"]),
            "rope.dimension_count": u(rope), "rope.scaling.type": value(STRING, "yarn"), "rope.scaling.factor": f(s["factor"]),
            "rope.scaling.original_context_length": u(s["original_max_position_embeddings"]), "rope.scaling.yarn_log_multiplier": f(0.1 * s["mscale_all_dim"]),
            "leading_dense_block_count": u(cfg["first_k_dense_replace"]), "expert_count": u(cfg["n_routed_experts"]), "expert_used_count": u(cfg["num_experts_per_tok"]),
            "expert_shared_count": u(cfg["n_shared_experts"]), "expert_feed_forward_length": u(cfg["moe_intermediate_size"]),
            "expert_weights_scale": f(cfg["routed_scaling_factor"]), "expert_weights_norm": value(BOOL, cfg["norm_topk_prob"]), "expert_gating_func": u(2),
            "expert_group_count": u(cfg["n_group"]), "expert_group_used_count": u(cfg["topk_group"])})
    return {"general.architecture": value(STRING, arch), **{"%s.%s" % (arch, k): v for k, v in keys.items()}}


# ---- tensors ----

def e4m3(code):
    sign, e, m = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    return sign * (m / 8 * 2.0 ** -6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7))


def bf16(v):
    u = struct.unpack("<I", struct.pack("<f", v))[0]
    return (u + 0x7fff + (u >> 16 & 1)) >> 16


class File:
    """A safetensors file: numbers as bf16 bytes."""

    def __init__(self, path):
        with open(path, "rb") as f:
            n = struct.unpack("<Q", f.read(8))[0]
            self.head = {k: v for k, v in json.loads(f.read(n)).items() if k != "__metadata__"}
            self.data = f.read()

    def raw(self, name):
        a, b = self.head[name]["data_offsets"]
        return self.data[a:b]

    def shape(self, name):
        return self.head[name]["shape"]

    def bf16(self, name):
        kind = self.head[name]["dtype"]
        if kind == "F8_E4M3":
            return self.codes(name)
        if kind != "BF16":
            sys.exit("%s: %s; only BF16 and F8_E4M3 are known" % (name, kind))
        return self.raw(name)

    def codes(self, name):
        """E4M3 codes times the scales of 128 x 128 blocks."""
        rows, cols = self.shape(name)
        raw, scales = self.raw(name), array.array("f", self.raw(name + "_scale_inv"))
        wide, out, tables = (cols + 127) // 128, bytearray(2 * rows * cols), {}
        for r in range(rows):
            for b in range(wide):
                s = scales[r // 128 * wide + b]
                if s not in tables:
                    v = [bf16(e4m3(c) * s) for c in range(256)]
                    tables[s] = bytes(x & 255 for x in v), bytes(x >> 8 for x in v)
                lo, hi = tables[s]
                a, z = r * cols + 128 * b, r * cols + min(128 * b + 128, cols)
                out[2 * a:2 * z:2], out[2 * a + 1:2 * z:2] = raw[a:z].translate(lo), raw[a:z].translate(hi)
        return bytes(out)

    def f32(self, name):
        raw = self.raw(name)
        return raw if self.head[name]["dtype"] == "F32" else b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2))


def permuted(raw, width, heads):
    """Rows of a head from [first half | second half] to pairs."""
    rows = [raw[i:i + width] for i in range(0, len(raw), width)]
    d = len(rows) // heads
    return b"".join(rows[h * d + i % 2 * (d // 2) + i // 2] for h in range(heads) for i in range(d))


def halves(cfg, raw):
    """kv_b [head][nope + v][latent] -> k_b [head][latent][nope], v_b [head][v][latent]."""
    nope, v, lora = cfg["qk_nope_head_dim"], cfg["v_head_dim"], cfg["kv_lora_rank"]
    numbers, k, out = array.array("H", raw), array.array("H"), array.array("H")
    for h in range(cfg["num_attention_heads"]):
        base = h * (nope + v) * lora
        for i in range(lora):
            k.extend(numbers[base + i:base + nope * lora:lora])
        out.extend(numbers[base + nope * lora:base + (nope + v) * lora])
    return k.tobytes(), out.tobytes()


def tensors(f, cfg):
    stacks = {}
    for name in f.head:
        part = name.split(".", 3)
        shape = f.shape(name)
        if name.endswith("_scale_inv") or (part[1] == "layers" and int(part[2]) >= cfg["num_hidden_layers"]):
            continue
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            yield "token_embd.weight" if name[0] == "m" else "output.weight", shape[::-1], GGML_BF16, f.bf16(name)
        elif name == "model.norm.weight":
            yield "output_norm.weight", shape, GGML_F32, f.f32(name)
        elif ".experts." in name:
            expert, matrix = part[3].split(".")[2:4]
            stacks.setdefault("blk.%s.%s.weight" % (part[2], STACKS[matrix]), {})[int(expert)] = name
        elif name.endswith("e_score_correction_bias"):
            yield "blk.%s.exp_probs_b.bias" % part[2], shape, GGML_F32, f.f32(name)
        elif "kv_b_proj" in name:
            k, v = halves(cfg, f.bf16(name))
            yield "blk.%s.attn_k_b.weight" % part[2], [cfg["qk_nope_head_dim"], cfg["kv_lora_rank"], cfg["num_attention_heads"]], GGML_BF16, k
            yield "blk.%s.attn_v_b.weight" % part[2], [cfg["kv_lora_rank"], cfg["v_head_dim"], cfg["num_attention_heads"]], GGML_BF16, v
        else:
            to = "blk.%s.%s.weight" % (part[2], NAMES[part[3].rsplit(".", 1)[0]])
            if len(shape) == 1 or "ffn_gate_inp" in to:
                yield to, shape[::-1], GGML_F32, f.f32(name)
            elif "self_attn.q_proj" in name or "self_attn.k_proj" in name:
                yield to, shape[::-1], GGML_BF16, permuted(f.bf16(name), 2 * shape[1], cfg["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
            else:
                yield to, shape[::-1], GGML_BF16, f.bf16(name)
    for to, members in stacks.items():
        yield to, f.shape(members[0])[::-1] + [len(members)], GGML_BF16, b"".join(f.bf16(members[e]) for e in sorted(members))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, out = sys.argv[1:]
    with open(os.path.join(folder, "config.json")) as f:
        cfg = json.load(f)
    with open(os.path.join(folder, "tokenizer.json")) as f:
        tok = json.load(f)
    arch = {"LlamaForCausalLM": "llama", "DeepseekV3ForCausalLM": "deepseek2"}[cfg["architectures"][0]]
    meta, all_tensors = {**metadata(cfg, arch), **tokenizer(cfg, tok)}, list(tensors(File(os.path.join(folder, "model.safetensors")), cfg))
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
