from tests.wire.draw import case, qkv


@case
def her_seg_dla__plain(d):
    return qkv(d, T=35, HK=4), {"height": 5, "width": 7}


@case
def her_seg_dla__without_positions(d):
    return qkv(d, HK=4, K=5, V=7), {"rope": "none", "eps": 1e-3}


def bottleneck(d, C, R, tokens):
    return {"x": d.normal(2, tokens, C), "squeeze_weight": d.normal(R, C), "squeeze_bias": d.normal(R),
            "expand_weight": d.normal(C, R), "expand_bias": d.normal(C)}


@case
def her_seg_dla__everything(d):
    inputs = qkv(d, T=24, H=4, HK=4, K=6)
    del inputs["v"]
    inputs |= bottleneck(d, 20, 5, 24) | {"gate": d.normal(2, 24, 4, 5)}
    return inputs | {"lepe_weight": d.normal(20, 3, 5), "lepe_bias": d.normal(20)}, {
        "height": 4, "width": 6, "rope_base": 100.0,
    }


@case
def her_seg_dla__pairs_across_heads(d):
    inputs = qkv(d, T=12, H=4, HK=4, K=3)
    del inputs["v"]
    return inputs | bottleneck(d, 4, 2, 12), {"height": 3, "width": 4}
