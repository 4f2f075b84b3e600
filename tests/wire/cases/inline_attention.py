from tests.wire.draw import case, qkv


@case
def inline_attention__plain(d):
    return qkv(d, S=50, HK=4), {}


@case
def inline_attention__relu(d):
    return qkv(d, HK=4, K=5, V=7), {"kernel": "relu", "scale": 0.9}


@case
def inline_attention__leaky_relu(d):
    return qkv(d, T=1, HK=4, S=9), {"kernel": "leaky_relu"}


@case
def inline_attention__exp_and_given_kernels(d):
    inputs = qkv(d, T=36, HK=4) | {"local_weight": d.normal(2, 4, 20, 3, 3)}
    return inputs, {"kernel": "exp", "height": 5, "width": 7, "num_prefix": 1}


def predicted(d, H, V, tokens):
    C = H * V
    return {"x": d.normal(2, tokens, C), "res_w1": d.normal(C, V), "res_b1": d.normal(C), "res_w2": d.normal(9 * C, V),
            "res_b2": d.normal(9 * C)}


@case
def inline_attention__predicted_kernels(d):
    return qkv(d, T=35, HK=4, V=6) | predicted(d, 4, 6, 35), {"height": 5, "width": 7}


@case
def inline_attention__predicted_kernels_with_prefix(d):
    return qkv(d, T=14, H=3, HK=3, HV=3, V=5) | predicted(d, 3, 5, 14), {"height": 4, "width": 3, "num_prefix": 2}
