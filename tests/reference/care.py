import numpy as np

from tests.reference.common import depthwise, elu1, gelu, mean_attention


def care(x, conv3_weight, conv3_bias, conv7_weight, conv7_bias, qk_weight=None, qk_bias=None, conv11v_weight=None,
         conv11v_bias=None, conv11h_weight=None, conv11h_bias=None, *, height, width, mixer="attention", head_dim=None,
         last=False, eps=1e-6, bn_eps=1e-5, **inter):
    """Groups of channels [mem | a | c3 | c7]: attention or 11x1 + 1x11 for a, convolutions; then the interactions."""
    g = conv3_weight.shape[0]
    m = x.shape[2] - 3 * g
    mem, a, c3, c7 = (x[..., begin:end] for begin, end in ((0, m), (m, m + g), (m + g, m + 2 * g), (m + 2 * g, m + 3 * g)))
    if mixer == "attention":
        heads = (*x.shape[:2], -1, g if head_dim is None else head_dim)
        q, k = a @ qk_weight[:g].T + qk_bias[:g], a @ qk_weight[g:].T + qk_bias[g:]
        mixed = mean_attention(elu1(q.reshape(heads)), elu1(k.reshape(heads)), a.reshape(heads), eps).reshape(a.shape)
    else:
        mixed = depthwise(a, conv11v_weight, conv11v_bias, height, width)
        mixed = mixed + depthwise(a, conv11h_weight, conv11h_bias, height, width)
    f = np.concatenate([mixed, depthwise(c3, conv3_weight, conv3_bias, height, width),
                        depthwise(c7, conv7_weight, conv7_bias, height, width)], axis=-1)
    if "inter1_norm_weight" not in inter:
        return {"o": np.concatenate([mem, f], axis=-1)}

    def interact(y, name, whole):
        p = {key[len(name) + 1 :]: value for key, value in inter.items() if key.startswith(name)}
        z = (y - p["norm_mean"]) / np.sqrt(p["norm_var"] + bn_eps) * p["norm_weight"] + p["norm_bias"]
        z = depthwise(gelu(z @ p["fc1_weight"].T + p["fc1_bias"]), p["conv_weight"], p["conv_bias"], height, width)
        return z @ p["fc2_weight"].T + p["fc2_bias"] + y if whole else z

    f = interact(f, "inter1", True)
    return {"o": interact(np.concatenate([mem, f], axis=-1), "inter2", not last)}
