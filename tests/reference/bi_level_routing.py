import math

import numpy as np

from tests.reference.common import softmax_over


def bi_level_routing(q, k, v, lepe_weight=None, lepe_bias=None, *, height, width, regions=7, top_k=4, scale=None,
                     auto_pad=False, return_routing=False):
    batch, tokens, heads, size = q.shape
    scale = (heads * size) ** -0.5 if scale is None else scale
    rh, rw = height // regions, width // regions
    nh, nw = math.ceil(height / rh), math.ceil(width / rw)
    members = {}
    for i in range(tokens):
        members.setdefault((i // width // rh) * nw + i % width // rw, []).append(i)
    count = nh * nw
    routing, o = np.zeros((batch, count, top_k), np.int32), np.zeros(v.shape)
    for b in range(batch):
        mean_q = [q[b, members[r]].reshape(len(members[r]), -1).mean(0) for r in range(count)]
        mean_k = [k[b, members[r]].reshape(len(members[r]), -1).mean(0) for r in range(count)]
        for r in range(count):
            similar = [float(mean_q[r] @ mean_k[s]) for s in range(count)]
            routing[b, r] = sorted(range(count), key=lambda s: (-similar[s], s))[:top_k]
            keys = [j for s in routing[b, r] for j in members[s]]
            padding = top_k * rh * rw - len(keys)
            for i in members[r]:
                for h in range(heads):
                    logits = np.concatenate([scale * k[b, keys, h] @ q[b, i, h], np.zeros(padding)])
                    values = np.concatenate([v[b, keys, h], np.zeros((padding, v.shape[-1]))])
                    o[b, i, h] = softmax_over(logits, np.ones(len(logits), bool), values)[0]
    if lepe_weight is not None:
        kh, kw = lepe_weight.shape[1:]
        for i in range(tokens):
            for y in range(kh):
                for x in range(kw):
                    row, column = i // width + y - kh // 2, i % width + x - kw // 2
                    if 0 <= row < height and 0 <= column < width:
                        weight = lepe_weight[:, y, x].reshape(heads, -1)
                        o[:, i] += weight * v[:, row * width + column]
    if lepe_bias is not None:
        o += lepe_bias.reshape(heads, -1)
    return {"o": o} | ({"routing": routing} if return_routing else {})
