import math

import numpy as np

from tests.reference.common import softmax_over, widen


def attention_rebalance(q, k, v, attn_first=None, attn_deep=None, top_mask=None, bottom_mask=None, head_weight=None,
                        mask=None, *, img_start, alpha=0.7, beta=0.3, local_ratio=0.25, spatial_ratio=0.0,
                        vit_prefix=1, rows="last", causal=True, scale=None):
    batch, tokens, heads, size = q.shape
    keys = k.shape[1]
    scale = size**-0.5 if scale is None else scale
    k, v = widen(k, heads), widen(v, heads)
    weights = np.ones(heads) if head_weight is None else head_weight
    n = vit_prefix
    if attn_first is not None:
        patches = attn_first.shape[-1] - n
        top_mask, bottom_mask = np.zeros((batch, patches), bool), np.zeros((batch, patches), bool)
        for b in range(batch):
            def largest(scores, ratio):
                return sorted(range(patches), key=lambda j: (-scores[j], j))[: math.floor(ratio * patches + 1e-9)]

            local = [sum(head[0, n + j] for head in attn_first[b]) for j in range(patches)]
            spatial = [sum(np.mean([head[n + i, n + j] for head in attn_first[b]]) for i in range(patches))
                       for j in range(patches)]
            sinks = np.array([sum(head[0, n + j] for head in attn_deep[b]) for j in range(patches)])
            q1, q3 = np.quantile(sinks, [0.25, 0.75])
            bottom_mask[b] = sinks > q3 + 1.5 * (q3 - q1)
            top_mask[b, largest(local, local_ratio) + largest(spatial, spatial_ratio)] = True
            top_mask[b] &= ~bottom_mask[b]
    patches = top_mask.shape[1]
    o, mass = np.zeros((batch, tokens, heads, v.shape[-1])), np.zeros((batch, heads))
    for b in range(batch):
        for i in range(tokens):
            allowed = np.ones(keys, bool)
            if mask is not None:
                allowed &= mask[b, i] if mask.ndim == 3 else mask[i]
            if causal:
                allowed &= np.arange(keys) <= i + keys - tokens
            for h in range(heads):
                logits = scale * k[b, :, h] @ q[b, i, h]
                if rows == "all" or i == tokens - 1:
                    for m in range(patches):
                        f = alpha if top_mask[b, m] else beta if bottom_mask[b, m] else 0.0
                        logits[img_start + m] += f * weights[h] * abs(logits[img_start + m])
                o[b, i, h] = softmax_over(logits, allowed, v[b, :, h])[0]
                if i == tokens - 1:
                    image = np.zeros((keys, 1))
                    image[img_start : img_start + patches] = 1
                    mass[b, h] = softmax_over(logits, allowed, image)[0][0]
    return {"o": o, "top_mask": top_mask, "bottom_mask": bottom_mask, "visual_mass": mass}
