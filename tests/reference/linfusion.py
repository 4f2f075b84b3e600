import numpy as np

from tests.reference.common import elu1, layer_norm, mean_attention


def linfusion(q=None, k=None, v=None, x=None, to_q=None, to_k=None, to_v=None, *, eps=1e-4, norm_eps=1e-5, heads=None,
              **branches):
    """Mean-normalised attention of elu + 1 features; the module: q = to_q u, u = x + W2 LeakyReLU(LN(W1 x + b1)) + b2."""

    def projected(weight, side=None):
        u = x
        if side is not None:
            w1, b1, norm_weight, norm_bias, w2, b2 = (
                branches[f"{side}_{name}"] for name in ("w1", "b1", "norm_weight", "norm_bias", "w2", "b2")
            )
            hidden = layer_norm(x @ w1.T + b1, norm_weight, norm_bias, norm_eps)
            u = x + np.where(hidden > 0, hidden, 0.01 * hidden) @ w2.T + b2
        return (u @ weight.T).reshape(*x.shape[:2], heads, -1)

    if x is not None:
        q, k, v = projected(to_q, "q"), projected(to_k, "k"), projected(to_v)
    return {"o": mean_attention(elu1(q), elu1(k), v, eps)}
