#!/usr/bin/env python3
"""Writes models/testdata: small random models of flash-linear-attention, and what that library computes with them.

    models/testing/make_goldens.py OUT [CASE...]    (PyTorch, transformers, flash-linear-attention; GPU or TRITON_INTERPRET=1)

Per case a folder with config.json and model.safetensors as `save_pretrained` writes them (weights rounded to bfloat16),
and golden.safetensors: `tokens` [T], and the logits [T, vocab] of a prefill of PREFILL tokens followed by one step a token,
`logits_float32` with the model in float32 and `logits_bfloat16` with it in bfloat16. Cases run side by side.

Of based and lightning_attn the library has a layer or an operator, and no model: they stand in the blocks of one that it has.
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
import torch.nn.functional as F
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
from fla.layers import based  # noqa: E402
from fla.layers.linear_attn import LinearAttention  # noqa: E402
from fla.layers.utils import get_layer_cache, update_layer_cache  # noqa: E402
from fla.models.utils import Cache  # noqa: E402
from fla.modules import RMSNorm  # noqa: E402
from fla.ops.simple_gla import fused_recurrent_simple_gla  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    # Triton's interpreter runs the library's kernels; which of a kernel's variants is fastest is of no interest then.
    from triton.runtime.autotuner import Autotuner

    Autotuner.do_bench = property(lambda self: lambda call, quantiles: [0.0] * len(quantiles))
    # Its products take the bits of bfloat16 for integers.
    kernel = based.parallel_based
    based.parallel_based = lambda q, k, v, **settings: kernel(q.float(), k.float(), v.float(), **settings).to(q.dtype)


class Based(based.BasedLinearAttention):
    """The library's layer, which has no cache: here the inputs so far are it."""

    def __init__(self, config, layer_idx):
        super().__init__(config.hidden_size, config.feature_dim, config.num_heads, config.num_heads)
        self.layer_idx = layer_idx

    def forward(self, hidden_states, past_key_values=None, **_):
        count, state = hidden_states.shape[1], get_layer_cache(self, past_key_values)
        if state is not None:
            hidden_states = torch.cat((state["recurrent_state"], hidden_states), 1)
        update_layer_cache(self, past_key_values, recurrent_state=hidden_states, offset=count)
        return super().forward(hidden_states)[:, -count:], None, past_key_values


def alibi(heads):
    power = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    return slopes + [2 ** (-8 * (h + 1) / (2 * power)) for h in range(2 * power)][0::2][: heads - power]


class Lightning(torch.nn.Module):
    """TNL's layer (OpenNLPLab/lightning-attention, examples/module/tnl_attn.py) on the library's recurrence."""

    def __init__(self, config, layer_idx):
        super().__init__()
        hidden, heads, layers = config.hidden_size, config.num_heads, config.num_hidden_layers
        self.layer_idx, self.heads = layer_idx, heads
        if config.decay == "alibi":
            self.decays = [-s * (1 - layer_idx / (layers - 1) + 1e-5) for s in alibi(heads)]
        else:  # As fla.ops.lightning_attn has them.
            self.decays = [-8 / heads * (1 - layer_idx / layers) * h for h in range(heads)]
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, torch.nn.Linear(hidden, hidden, bias=False))
        low = hidden // heads
        self.g_proj = torch.nn.Sequential(torch.nn.Linear(hidden, low, bias=False), torch.nn.Linear(low, hidden, bias=False))
        self.norm = RMSNorm(hidden, elementwise_affine=False, eps=config.norm_eps)

    def forward(self, hidden_states, past_key_values=None, **_):
        q, k, v = (F.silu(w(hidden_states)).unflatten(-1, (self.heads, -1)) for w in (self.q_proj, self.k_proj, self.v_proj))
        state = get_layer_cache(self, past_key_values)
        o, state = fused_recurrent_simple_gla(
            q, k, v, g_gamma=torch.tensor(self.decays, device=q.device), scale=1.0, output_final_state=True,
            initial_state=None if state is None else state["recurrent_state"],
        )
        update_layer_cache(self, past_key_values, recurrent_state=state, offset=hidden_states.shape[1])
        o = self.norm(o.flatten(-2)) * self.g_proj(hidden_states).sigmoid()
        return self.o_proj(o), None, past_key_values


def with_layer(layer, kind, **defaults):
    """LinearAttention's config and model with another layer in its place."""

    class Config(library.LinearAttentionConfig):
        model_type = kind

        def __init__(self, **settings):
            super().__init__(**{**defaults, **settings})

    class Model(library.LinearAttentionForCausalLM):
        config_class = Config

        def __init__(self, config):
            super().__init__(config)
            for i, block in enumerate(self.model.layers):
                if isinstance(block.attn, LinearAttention):
                    block.attn = layer(config, i)
            self.post_init()

    return Config, Model


# What is none of those layers' settings.
NOT_THEIRS = {
    "attn_mode", "elementwise_affine", "expand_k", "expand_v", "feature_map", "norm_feature_map", "norm_k", "norm_q",
    "num_kv_heads", "tie_feature_map_qk",
}
OWN = {
    "Based": with_layer(Based, "based", feature_dim=16, num_heads=12),
    "Lightning": with_layer(Lightning, "lightning_attn", decay="alibi", num_heads=8),
}

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
    "mla": ("MLA", dict(
        num_heads=4, q_lora_rank=24, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, qk_head_dim=24, v_head_dim=20)),
    "mla_window": ("MLA", dict(
        num_heads=2, q_lora_rank=None, kv_lora_rank=20, qk_nope_head_dim=24, qk_rope_head_dim=12, qk_head_dim=None,
        v_head_dim=36, window_size=40, rope_theta=50000.0, tie_word_embeddings=True)),
    "mamba2": ("Mamba2", dict(head_dim=32, state_size=24)),
    "mamba2_groups": ("Mamba2", dict(
        head_dim=16, state_size=16, n_groups=2, use_bias=True, use_conv_bias=False, D_has_hdim=True, norm_before_gate=True,
        dt_limit=(0.01, 0.05), tie_word_embeddings=True)),
    "mamba2_bare": ("Mamba2", dict(head_dim=16, state_size=16, expand=1, conv_kernel=3, rmsnorm=False)),
    "based": ("Based", dict(num_heads=4)),
    "based_hybrid": ("Based", dict(num_heads=2, feature_dim=8, attn=WINDOW)),
    "lightning_attn": ("Lightning", dict(num_heads=4)),
    "lightning_attn_hybrid": ("Lightning", dict(num_heads=2, decay="linear", attn=FULL, tie_word_embeddings=True)),
}


def empty_mamba2(model):
    """The cache before any token: the library's own prefill deals heads out to groups in turn, its steps and mamba_ssm do not."""
    c, cache = model.config, Cache()
    for i, block in enumerate(model.backbone.layers):
        conv = block.mixer.conv1d.weight
        cache.update(
            layer_idx=i, offset=0, recurrent_state=torch.zeros(1, c.num_heads, c.head_dim, c.state_size, device=conv.device),
            conv_state=torch.zeros(1, len(conv), c.conv_kernel, dtype=conv.dtype, device=conv.device))
    return cache


def logits(model, tokens):
    """[T, vocab]: a prefill, then one token at a time through the library's cache."""
    with torch.inference_mode():
        rows, cache, first = [], None, PREFILL
        if getattr(model.config, "n_groups", 1) > 1:
            cache, first = empty_mamba2(model), 0
        else:
            out = model(tokens[None, :PREFILL], use_cache=True)
            rows, cache = [out.logits[0]], out.past_key_values
        for t in range(first, len(tokens)):
            out = model(tokens[None, t : t + 1], past_key_values=cache, use_cache=True)
            rows.append(out.logits[0])
            cache = out.past_key_values
    return torch.cat(rows).float().cpu()


def load(family, folder, dtype):
    model = family.from_pretrained(folder, dtype=dtype).to(DEVICE).eval()
    if isinstance(model, library.Mamba2ForCausalLM):
        # Norms that stay in float32 would hand float32 to the products.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    return model


def error(a, b):
    return ((a - b).norm() / b.norm()).item()


def make(name, family, settings, folder):
    torch.manual_seed(sum(map(ord, name)))
    own = family in OWN
    kind, family = OWN[family] if own else (getattr(library, f"{family}Config"), getattr(library, f"{family}ForCausalLM"))
    config = kind(**{**COMMON, **settings})
    model = family(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Norm weights and biases at their usual ones and zeros would hide a loader that mixes them up.
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        base = model.base_model
        if hasattr(base, "lower_bounds"):
            base.lower_bounds.copy_(torch.randn_like(base.lower_bounds))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokens = torch.randint(0, VOCAB, (PREFILL + STEPS,)).to(DEVICE)
    # Read back, since a model that was of another type once keeps that type's rounding in its buffers.
    half, full = (logits(load(family, folder, dtype), tokens) for dtype in (torch.bfloat16, torch.float32))
    save_file({"tokens": tokens.int().cpu(), "logits_float32": full, "logits_bfloat16": half}, folder / "golden.safetensors")
    for extra in folder.glob("generation_config.json"):
        extra.unlink()
    config = json.loads((folder / "config.json").read_text())
    for key in {"transformers_version"} | (NOT_THEIRS | {"architectures"} if own else set()):
        config.pop(key, None)
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
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for line in pool.imap_unordered(run, sys.argv[2:] or CASES):
            print(line, flush=True)


if __name__ == "__main__":
    main()
