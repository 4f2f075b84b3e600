import itertools

import numpy as np

from tests.reference.common import softmax_over


def axis_keys(x, length, window, stride, dilation, causal):
    """Keys on one axis of the query at x."""
    group = x % dilation
    inner = x // dilation
    size = length // dilation + (1 if group < length % dilation else 0)
    if causal:
        leader = min(inner // stride * stride + stride - 1, size - 1)
        start, end = max(leader - window + 1, 0), min(inner + 1, size)
    else:
        leader = min(inner // stride * stride + stride // 2, size - 1)
        before, after = window // 2, window // 2 + window % 2 - 1
        start = max(leader - before, 0)
        if leader + after >= size:
            start += size - after - leader - 1
        end = start + window
    return [group + dilation * t for t in range(start, end)]


def neighborhood_attention(q, k, v, k_extra=None, v_extra=None, *, window, depth=None, height=None, width=None,
                           stride=1, dilation=1, causal=False, scale=None, return_lse=False):
    batch, tokens, heads, key = q.shape
    axes = [size for size in (depth, height, width) if size is not None] or [tokens]
    window, stride, dilation, causal = (
        list(setting) if isinstance(setting, (list, tuple)) else [setting] * len(axes)
        for setting in (window, stride, dilation, causal)
    )
    scale = key**-0.5 if scale is None else scale
    o = np.zeros((batch, tokens, heads, v.shape[-1]))
    lse = np.zeros((batch, tokens, heads))
    for i, place in enumerate(itertools.product(*(range(size) for size in axes))):
        sets = [
            axis_keys(x, size, window[a], stride[a], dilation[a], causal[a])
            for a, (x, size) in enumerate(zip(place, axes))
        ]
        near = [int(np.ravel_multi_index(neighbour, axes)) for neighbour in itertools.product(*sets)]
        for b in range(batch):
            for h in range(heads):
                group = h // (heads // k.shape[2])
                keys, values = k[b, near, group], v[b, near, group]
                if k_extra is not None:
                    keys = np.concatenate([keys, k_extra[b, :, group]])
                    values = np.concatenate([values, v_extra[b, :, group]])
                everything = np.ones(len(keys), bool)
                o[b, i, h], lse[b, i, h] = softmax_over(scale * keys @ q[b, i, h], everything, values)
    return {"o": o} | ({"lse": lse} if return_lse else {})
