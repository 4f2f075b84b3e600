from tests.wire.draw import case, qkv


@case
def linfusion__core(d):
    return qkv(d, HK=4), {}


@case
def linfusion__one_token_and_a_large_eps(d):
    return qkv(d, T=1, H=1, HK=1, HV=1, K=3, V=1), {"eps": 0.5}


def module(d, C, D, H, K, V, tokens=37):
    inputs = {"x": d.normal(2, tokens, C), "to_q": d.normal(H * K, C) / C, "to_k": d.normal(H * K, C) / C,
              "to_v": d.normal(H * V, C)}
    for side in "qk":
        inputs |= {f"{side}_w1": d.normal(D, C), f"{side}_b1": d.normal(D), f"{side}_norm_weight": d.normal(D),
                   f"{side}_norm_bias": d.normal(D), f"{side}_w2": d.normal(C, D), f"{side}_b2": d.normal(C)}
    return inputs


@case
def linfusion__module(d):
    return module(d, C=24, D=24, H=3, K=8, V=8), {"heads": 3}


@case
def linfusion__module_of_odd_sizes(d):
    return module(d, C=17, D=11, H=3, K=5, V=7, tokens=23), {"heads": 3, "eps": 1e-3, "norm_eps": 1e-3}
