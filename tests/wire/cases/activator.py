from tests.wire.draw import case


def unit(d, D, F, tokens):
    inputs = {"x": d.normal(2, tokens, D), "w1": d.normal(F, D), "b1": d.normal(F), "w2": d.normal(F, D)}
    return inputs | {"b2": d.normal(F), "w3": d.normal(D, F), "b3": d.normal(D), "norm_weight": d.normal(F),
                     "norm_bias": d.normal(F)}


def block_norm(d, D):
    return {"block_norm_weight": d.normal(D), "block_norm_bias": d.normal(D)}


@case
def activator__unit(d):
    return unit(d, 16, 24, 37), {}


@case
def activator__gated(d):
    return unit(d, 13, 7, 5) | block_norm(d, 13), {"block": "gated", "eps": 1e-3}


@case
def activator__full(d):
    ffn = {"ffn_w1": d.normal(20, 16), "ffn_b1": d.normal(20), "ffn_w2": d.normal(16, 20), "ffn_b2": d.normal(16)}
    return unit(d, 16, 24, 37) | block_norm(d, 16) | ffn, {"block": "full"}
