"""Decoding by flash-linear-attention's own generate, to measure beside bench/model_decode: the most probable tokens of batches.

    decode_fla.py models/weights/attnd-text-small --sessions 1 64 512

Needs a GPU, PyTorch, transformers and flash-linear-attention. Where flash-attn is missing, PyTorch's scaled_dot_product_attention
stands in for its two functions. Prints one JSON object a line for each number of sequences.
"""

import argparse
import importlib.machinery
import importlib.util
import json
import sys
import time
import types

import torch
from torch.nn import functional as F


def attention(q, k, v, causal=True, window_size=(-1, -1)):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    # The library hands out a window's keys alone, and one query, or a prompt that fits into the window.
    assert q.shape[2] == 1 or q.shape[2] == k.shape[2]
    o = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=q.shape[1] != k.shape[1])
    return o.transpose(1, 2)


def packed_attention(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=True, window_size=(-1, -1)):
    n = len(cu_seqlens_q) - 1  # Of equal lengths here.
    return attention(*(x.view(n, -1, *x.shape[1:]) for x in (q, k, v)), causal, window_size).flatten(0, 1)


def stand_in():
    module = types.ModuleType("flash_attn")
    module.flash_attn_func, module.flash_attn_varlen_func = attention, packed_attention
    module.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    sys.modules["flash_attn"] = module


def seconds(model, prompt, tokens):
    torch.cuda.synchronize()
    begin = time.monotonic()
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
    )
    torch.cuda.synchronize()
    return time.monotonic() - begin, out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1])
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    if importlib.util.find_spec("flash_attn") is None:
        stand_in()
    import fla.models  # noqa: F401  Registers its classes.
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.bfloat16).cuda().eval()
    with torch.inference_mode():
        for n in arguments.sessions:
            rows = [[(97 + 7 * t + i) % 256 for t in range(arguments.prompt)] for i in range(n)]
            prompt = torch.tensor(rows, device="cuda")
            seconds(model, prompt, 16)
            # What the prompt and the first tokens cost is taken off.
            short, _ = seconds(model, prompt, 8)
            long, out = seconds(model, prompt, 8 + arguments.tokens)
            step = (long - short) / arguments.tokens
            first = out[0, arguments.prompt : arguments.prompt + 16].tolist()
            report = {"sessions": n, "tokens_per_second": n / step, "step_us": 1e6 * step, "tokens": first}
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
