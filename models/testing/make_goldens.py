#!/usr/bin/env python3
"""Writes models/testdata: small random models of flash-linear-attention, and what that library computes with them.

    models/testing/make_goldens.py OUT     (a GPU, PyTorch, Triton, transformers, flash-linear-attention)

Per case a folder with config.json and model.safetensors as `save_pretrained` writes them (weights rounded to bfloat16),
and golden.safetensors: `tokens` [T], and the logits [T, vocab] of a prefill of PREFILL tokens followed by one step a token,
`logits_float32` with the model in float32 and `logits_bfloat16` with it in bfloat16. Cases run side by side.
"""

import importlib.machinery
import json
import multiprocessing
import os
import pathlib
import sys
import types

os.environ.setdefault("TRITON_F32_DEFAULT", "tf32x3")

import torch
import transformers.modeling_utils  # Looks for the real flash_attn, before there is a stand-in.  # noqa: F401

# Up to 64 tokens the library walks token by token, in float32 proper; beyond, its products are TF32.
PREFILL, STEPS, VOCAB = 64, 64, 96


def attention(q, k, v, causal=True, window_size=(-1, -1), **_):
    """flash_attn_func's contract in plain PyTorch: [B,T,H,D] against [B,S,HK,D], the last query at the last key."""
    group = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
    scores = torch.einsum("bthd,bshd->bhts", q.float(), k.float()) / q.shape[-1] ** 0.5
    distance = torch.arange(q.shape[1], device=q.device)[:, None] + k.shape[1] - q.shape[1]
    distance = distance - torch.arange(k.shape[1], device=q.device)[None]
    hidden = distance < 0
    if window_size[0] >= 0:
        hidden = hidden | (distance > window_size[0])
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v.float()).to(q.dtype)


stand_in = types.ModuleType("flash_attn")
stand_in.flash_attn_func = attention
stand_in.flash_attn_varlen_func = None
stand_in.__version__ = "2.8.0"
stand_in.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
sys.modules["flash_attn"] = stand_in
for module in ("flash_attn.bert_padding", "flash_attn.layers", "flash_attn.layers.rotary"):
    sys.modules[module] = types.ModuleType(module)

import fla  # noqa: E402
from fla import models as library  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    # Triton's interpreter runs the library's kernels; which of a kernel's variants is fastest is of no interest then.
    from triton.runtime.autotuner import Autotuner

    Autotuner.do_bench = property(lambda self: lambda call, quantiles: [0.0] * len(quantiles))

COMMON = dict(
    hidden_size=64, num_hidden_layers=3, vocab_size=VOCAB, intermediate_size=96, fuse_cross_entropy=False,
    fuse_linear_cross_entropy=False, max_position_embeddings=512, initializer_range=0.2,
)
WINDOW = dict(layers=[1], num_heads=4, num_kv_heads=2, window_size=40, rope_theta=10000.0)
FULL = dict(layers=[2], num_heads=2, num_kv_heads=2, qkv_bias=True, window_size=None, rope_theta=50000.0)

CASES = {
    "transformer": ("Transformer", dict(num_heads=4, num_kv_heads=2, qkv_bias=True, qk_norm=True)),
    "linear_attn": ("LinearAttention", dict(num_heads=2, feature_map="elementwise_product")),
    "linear_attn_elu": ("LinearAttention", dict(num_heads=2, feature_map="elu", attn=WINDOW, tie_word_embeddings=True)),
    "retnet": ("RetNet", dict(num_heads=2)),
    "retnet_hybrid": ("RetNet", dict(num_heads=2, use_short_conv=True, attn=FULL)),
    "gla": ("GLA", dict(num_heads=2)),
    "gla_hybrid": ("GLA", dict(num_heads=4, num_kv_heads=2, use_short_conv=True, attn=[WINDOW, FULL])),
    "hgrn2": ("HGRN2", dict(expand_ratio=32)),
    "hgrn2_hybrid": ("HGRN2", dict(expand_ratio=16, use_short_conv=True, attn=WINDOW)),
    "delta_net": ("DeltaNet", dict(num_heads=2)),
    "delta_net_hybrid": ("DeltaNet", dict(num_heads=2, use_gate=True, allow_neg_eigval=True, attn=WINDOW)),
    "gated_deltanet": ("GatedDeltaNet", dict(num_heads=2, head_dim=32, expand_v=1.0)),
    "gated_deltanet_hybrid": (
        "GatedDeltaNet", dict(num_heads=2, num_v_heads=4, head_dim=16, expand_v=2.0, attn=WINDOW, tie_word_embeddings=True)),
    "kda": ("KDA", dict(num_heads=2, head_dim=32)),
    "kda_hybrid": ("KDA", dict(num_heads=2, head_dim=32, attn=[WINDOW, FULL])),
}


def logits(model, tokens):
    """[T, vocab]: a prefill, then one token at a time through the library's cache."""
    with torch.inference_mode():
        out = model(tokens[None, :PREFILL], use_cache=True)
        rows, cache = [out.logits[0]], out.past_key_values
        for t in range(PREFILL, len(tokens)):
            out = model(tokens[None, t : t + 1], past_key_values=cache, use_cache=True)
            rows.append(out.logits[0])
            cache = out.past_key_values
    return torch.cat(rows).float().cpu()


def error(a, b):
    return ((a - b).norm() / b.norm()).item()


def make(name, family, settings, folder):
    torch.manual_seed(sum(map(ord, name)))
    config = getattr(library, f"{family}Config")(**{**COMMON, **settings})
    family = getattr(library, f"{family}ForCausalLM")
    model = family(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Norm weights and biases at their usual ones and zeros would hide a loader that mixes them up.
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        if hasattr(model.model, "lower_bounds"):
            model.model.lower_bounds.copy_(torch.randn_like(model.model.lower_bounds))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokens = torch.randint(0, VOCAB, (PREFILL + STEPS,)).to(DEVICE)
    # Read back, since a model that was of another type once keeps that type's rounding in its buffers.
    half, full = (
        logits(family.from_pretrained(folder, dtype=dtype).to(DEVICE).eval(), tokens)
        for dtype in (torch.bfloat16, torch.float32)
    )
    save_file({"tokens": tokens.int().cpu(), "logits_float32": full, "logits_bfloat16": half}, folder / "golden.safetensors")
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    config = json.loads((folder / "config.json").read_text())
    config.pop("transformers_version", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return error(half, full)


def run(name):
    family, settings = CASES[name]
    folder = pathlib.Path(sys.argv[1]) / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return f"{name:24} bfloat16 against float32 {make(name, family, settings, folder):.1e}"
    except Exception as e:  # One class that this version of the library cannot run must not hide the others.
        return f"{name:24} FAILED {type(e).__name__}: {e}"


def main():
    print("flash-linear-attention", fla.__version__, "torch", torch.__version__, DEVICE, flush=True)
    with multiprocessing.get_context("spawn").Pool(8, maxtasksperchild=1) as pool:
        for line in pool.imap_unordered(run, CASES):
            print(line, flush=True)


if __name__ == "__main__":
    main()
