import math

import numpy as np

from tests.reference.common import sequences, softmax_over


def search(q, k, visible, *, tokens, mask_k, block_size_q, block_stride_q, block_size_k, block_stride_k,
           sliding_window, sink, representative):
    """Blocks that the queries q of one block choose: (start, size) nodes halved until all are single."""
    candidates = max(0, visible - sliding_window - sink)
    blocks = math.ceil(candidates / block_size_k)
    if candidates <= mask_k:
        return list(range(blocks))
    count = math.ceil(mask_k / block_size_k)
    nodes = [(blocks * m // count, blocks * (m + 1) // count - blocks * m // count) for m in range(count)]
    rows = [i for i in range(len(q)) if (i - min(tokens, block_stride_q) + 1) % block_stride_q == 0
            and i >= min(tokens, block_stride_q) - 1] or list(range(len(q)))
    while any(size > 1 for _, size in nodes):
        children = []
        for start, size in nodes:
            if size // 2 > 0:
                children.append((start, size // 2))
            children.append((start + size // 2, size - size // 2))

        def score(child):
            start, size = child
            block = {"first": start, "center": start + size // 2, "last": start + size - 1}[representative]
            base = sink + block * block_size_k
            keys = [base + t * block_stride_k + block_stride_k - 1 for t in range(block_size_k // block_stride_k)]
            keys = [key for key in keys if key < visible] or [base]
            return max(float(q[i] @ k[key]) for i in rows for key in keys)

        scored = sorted(((-score(child), child[0], child) for child in children), key=lambda x: x[:2])
        nodes = sorted(child for _, _, child in scored[:count])
    return [start for start, _ in nodes]


def hip_attention(q, k, v, cu_seqlens=None, *, mask_k=512, block_size_q=64, block_stride_q=2, block_size_k=2,
                  block_stride_k=1, sliding_window=256, sink=16, representative="center", scale=None,
                  return_lse=False, return_blocks=False):
    batch, tokens, heads, size = q.shape
    scale = size**-0.5 if scale is None else scale
    o, lse = np.zeros((batch, tokens, heads, v.shape[-1])), np.zeros((batch, tokens, heads))
    pieces = sequences(batch, tokens, cu_seqlens)
    found = {}
    for m, b, steps in pieces:
        keys = np.array(steps, int) if cu_seqlens is not None else np.arange(k.shape[1])
        for h in range(heads):
            hk = h // (heads // k.shape[2])
            for u, begin in enumerate(range(0, len(steps), block_size_q)):
                block = steps[begin : begin + block_size_q]
                visible = begin + len(block) + len(keys) - len(steps)
                chosen = search(q[b, block, h], k[b, keys, hk], visible, tokens=len(steps),
                                mask_k=mask_k, block_size_q=block_size_q, block_stride_q=block_stride_q,
                                block_size_k=block_size_k, block_stride_k=block_stride_k,
                                sliding_window=sliding_window, sink=sink, representative=representative)
                found[m, h, u] = [sink + s * block_size_k for s in chosen]
                listed = {start + x for start in found[m, h, u] for x in range(block_size_k)}
                for i, t in enumerate(block):
                    p = begin + i + len(keys) - len(steps)
                    allowed = np.array([j <= p and (j < sink or p - j < sliding_window or j in listed)
                                        for j in range(len(keys))], bool)
                    logits = scale * k[b, keys, hk] @ q[b, t, h]
                    o[b, t, h], lse[b, t, h] = softmax_over(logits, allowed, v[b, keys, hk])
    outputs = {"o": o} | ({"lse": lse} if return_lse else {})
    if return_blocks:
        most = max([1, *(len(starts) for starts in found.values())])
        blocks = max((math.ceil(len(steps) / block_size_q) for _, _, steps in pieces), default=0)
        starts = np.full((len(pieces), heads, blocks, most), -1, np.int32)
        for place, values in found.items():
            starts[(*place, slice(len(values)))] = values
        outputs["block_starts"] = starts
    return outputs
