import numpy as np

from tests.reference.common import sigmoid


def md_tpe(x, q, k, log_decay, norm_weight=None, w_o=None, *, height=None, width=None, depth=None, scale=1.0, eps=1e-5,
           residual=False):
    """Along each axis acc = sigmoid(log_decay) acc + x, z = scale (q.k) acc, normalised per head; summed over axes."""
    batch, tokens, size = x.shape
    grid = [axis for axis in (depth, height, width) if axis is not None] or [tokens]
    heads = log_decay.shape[1]
    channels = size // heads
    y = x.copy() if residual else np.zeros(x.shape)
    for m in range(len(grid)):
        stride = int(np.prod(grid[m + 1:]))
        for b in range(batch):
            acc = np.zeros((tokens, size))
            for t in range(tokens):
                place = t // stride % grid[m]
                z = np.zeros(size)
                for h in range(heads):
                    part = slice(h * channels, (h + 1) * channels)
                    before = acc[t - stride, part] if place > 0 else 0.0
                    acc[t, part] = sigmoid(log_decay[m, h]) * before + x[b, t, part]
                    row = scale * (q[m, part] @ k[m, part]) * acc[t, part]
                    z[part] = row / np.sqrt((row**2).mean() + eps)
                z = z if norm_weight is None else z * norm_weight[m]
                y[b, t] += z if w_o is None else w_o[m] @ z
    return {"y": y}
