import numpy as np

from tests.reference.common import sigmoid


def vig_gla(q, k, v, g_forward, g_backward, norm_weight=None, local=None, local_norm_weight=None, gate=None, *,
            scale=None, norm_eps=1e-6):
    """Two recurrences that share q, k, v, one from each end, averaged; then a norm and a mix with the local branch."""
    batch, tokens, heads, key = q.shape
    value = v.shape[-1]
    scale = key**-0.5 if scale is None else scale
    a = np.zeros(v.shape)
    for b in range(batch):
        for h in range(heads):
            for g, order in ((g_forward, range(tokens)), (g_backward, reversed(range(tokens)))):
                state = np.zeros((key, value))
                for t in order:
                    state = np.exp(g[b, t, h])[:, None] * state + np.outer(k[b, t, h], v[b, t, h])
                    a[b, t, h] += scale * state.T @ q[b, t, h] / 2

    def rms(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + norm_eps) * weight

    if norm_weight is not None:
        a = rms(a, norm_weight)
    if local is not None:
        a = sigmoid(gate) * a + (1 - sigmoid(gate)) * rms(local, local_norm_weight)
    return {"o": a}
