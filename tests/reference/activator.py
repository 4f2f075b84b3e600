from tests.reference.common import gelu, layer_norm


def activator(x, w1, b1, w2, b2, w3, b3, norm_weight, norm_bias, block_norm_weight=None, block_norm_bias=None, ffn_w1=None,
              ffn_b1=None, ffn_w2=None, ffn_b2=None, *, block="unit", eps=1e-5):
    """U(x) = W3 (LN(gelu(W1 x + b1)) * LN(W2 x + b2)) + b3, alone, with a residual, or with a second MLP after it."""

    def unit(z):
        gate = layer_norm(gelu(z @ w1.T + b1), norm_weight, norm_bias, eps)
        return (gate * layer_norm(z @ w2.T + b2, norm_weight, norm_bias, eps)) @ w3.T + b3

    if block == "unit":
        return {"y": unit(x)}
    y = x + unit(layer_norm(x, block_norm_weight, block_norm_bias, eps))
    if block == "full":
        y = y + gelu(layer_norm(y, block_norm_weight, block_norm_bias, eps) @ ffn_w1.T + ffn_b1) @ ffn_w2.T + ffn_b2
    return {"y": y}
