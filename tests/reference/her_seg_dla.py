from tests.reference.common import elu1, lepe, mean_attention, silu, turn_pairs


def her_seg_dla(q, k, v=None, x=None, squeeze_weight=None, squeeze_bias=None, expand_weight=None, expand_bias=None,
                lepe_weight=None, lepe_bias=None, gate=None, *, rope="axial2d_full", rope_base=10000.0, eps=1e-6,
                height=None, width=None):
    """Mean-normalised attention of elu + 1 features, positions over the channels of all heads; gates before and after."""
    if x is not None:
        v = silu(x @ squeeze_weight.T + squeeze_bias) @ expand_weight.T + expand_bias
        v = v.reshape(*q.shape[:3], -1)

    def turn(features):
        if rope == "none":
            return features
        quarter = features.shape[2] * features.shape[3] // 4
        frequency = [rope_base ** (-p / quarter) for p in range(quarter)]
        return turn_pairs(features.reshape(*features.shape[:2], -1), width, frequency).reshape(features.shape)

    o = mean_attention(elu1(q), elu1(k), v, eps, turn)
    if lepe_weight is not None:
        o = o + lepe(v, lepe_weight, lepe_bias, height, width)
    return {"o": o if gate is None else o * silu(gate)}
