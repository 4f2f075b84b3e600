import numpy as np

from tests.reference.common import depthwise, gelu

FEATURES = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "exp": lambda x: np.exp(0.2 * x),
}


def predicted(x, res_w1, res_b1, res_w2, res_b2, heads, size):
    """[B,C,3,3]: two layers on the mean token, head by head."""
    kernels = np.zeros((x.shape[0], heads * size, 3, 3))
    for n, mean in enumerate(x.mean(1)):
        u = np.zeros(heads * size)
        for c in range(heads * size):
            h = c // size
            u[c] = gelu(res_b1[c] + res_w1[c] @ mean[h * size : (h + 1) * size])
        for r in range(9 * heads * size):
            h = r // (9 * size)
            kernels[n].reshape(-1)[r] = res_b2[r] + res_w2[r] @ u[h * size : (h + 1) * size]
    return kernels


def inline_attention(q, k, v, local_weight=None, x=None, res_w1=None, res_b1=None, res_w2=None, res_b2=None, *,
                     kernel="identity", scale=None, num_prefix=0, height=None, width=None):
    """w_ij = a_ij - mean_m a_im + 1/S with a_ij = scale/S phi(q_i).phi(k_j); a depthwise 3x3 of the image's values."""
    batch, queries, heads, _ = q.shape
    keys, size = v.shape[1], v.shape[3]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    phi = FEATURES[kernel]
    o = np.zeros((batch, queries, heads, size))
    for n, i, h in np.ndindex(batch, queries, heads):
        a = np.array([scale / keys * (phi(q[n, i, h]) @ phi(key)) for key in k[n, :, h]])
        o[n, i, h] = (a - a.sum() / keys + 1.0 / keys) @ v[n, :, h]
    if x is not None:
        local_weight = predicted(x, res_w1, res_b1, res_w2, res_b2, heads, size)
    if local_weight is not None:
        image = v[:, num_prefix:].reshape(batch, height * width, heads * size)
        local = depthwise(image, local_weight.reshape(batch, heads * size, 3, 3), None, height, width)
        o[:, num_prefix:] += local.reshape(batch, height * width, heads, size)
    return {"o": o}
