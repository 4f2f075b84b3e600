import json
import math

import numpy as np

from tests.reference.common import sequences, softmax_over, widen

POOLS = {"max": lambda x: x.max(0), "min": lambda x: x.min(0), "avg": lambda x: x.mean(0)}


def seer_attention(q, k, v, q_gate=None, k_gate=None, gate_wq=None, gate_wk=None, gate_cos=None, gate_sin=None,
                   cu_seqlens=None, *, block_size=64, q_pool='["avg"]', k_pool='["max","min","avg"]',
                   method="threshold", threshold=0.0, nz_ratio=None, top_k=None, last_block_dense=True, scale=None,
                   return_gate=False):
    batch, tokens, heads, size = q.shape
    key_heads, gate_heads, channels = k.shape[2], *gate_wk.shape[::2]
    scale = size**-0.5 if scale is None else scale
    q_gate, k_gate = q if q_gate is None else q_gate, k if k_gate is None else k_gate
    pools = {side: [p for p in ("max", "min", "avg") if p in json.loads(text)]
             for side, text in (("q", q_pool), ("k", k_pool))}
    pieces = sequences(batch, tokens, cu_seqlens)
    most = max((math.ceil(len(steps) / block_size) for _, _, steps in pieces), default=0)
    o = np.zeros((batch, tokens, heads, v.shape[-1]))
    mask = np.zeros((len(pieces), heads, most, most), bool)
    gate = np.zeros(mask.shape)

    def turned(x, u):
        if gate_cos is None:
            return x
        half = channels // 2
        a, b = x[:half], x[half:]
        return np.concatenate([a * gate_cos[u] - b * gate_sin[u], b * gate_cos[u] + a * gate_sin[u]])

    for m, row, steps in pieces:
        blocks = [[t for t in steps[u * block_size : (u + 1) * block_size]]
                  for u in range(math.ceil(len(steps) / block_size))]
        for h in range(heads):
            hg = h // (heads // gate_heads)
            hk = hg // (gate_heads // key_heads)
            queries, keys = [], []
            for u, block in enumerate(blocks):
                x = np.concatenate([POOLS[p](q_gate[row, block, h]) for p in pools["q"]])
                queries.append(turned(x if gate_wq is None else x @ gate_wq[h], u))
                x = np.concatenate([POOLS[p](k_gate[row, block, hk]) for p in pools["k"]])
                keys.append(turned(x @ gate_wk[hg], u))
            for u, block in enumerate(blocks):
                scores = np.array([queries[u] @ keys[w] / math.sqrt(channels) for w in range(u + 1)])
                share = np.exp(scores - scores.max())
                share /= share.sum()
                gate[m, h, u, : u + 1] = share
                if method == "threshold":
                    kept = {w for w in range(u + 1) if share[w] > threshold}
                else:
                    count = top_k if method == "top_k" else max(1, math.floor((1 - math.sqrt(1 - nz_ratio)) * len(blocks)))
                    kept = set(sorted(range(u + 1), key=lambda w: (-scores[w], w))[:count])
                if last_block_dense and u >= len(blocks) - 2:
                    kept = set(range(u + 1))
                mask[m, h, u, sorted(kept)] = True
                for t in block:
                    seen = [s for w in sorted(kept) for s in blocks[w] if s <= t]
                    values = widen(v, heads)[row, seen, h]
                    logits = scale * widen(k, heads)[row, seen, h] @ q[row, t, h]
                    o[row, t, h] = softmax_over(logits, np.ones(len(seen), bool), values)[0]
    return {"o": o} | ({"block_mask": mask, "gate": gate} if return_gate else {})
