from tests.wire.draw import case, qkv


@case
def gpsa__plain(d):
    return qkv(d, T=35, HK=4), {"height": 5, "width": 7}


@case
def gpsa__learned(d):
    inputs = qkv(d, T=24, H=3, HK=3, HV=3, K=5, V=7)
    inputs |= {"pos_weight": 0.3 * d.normal(3, 3), "pos_bias": d.normal(3), "gating": d.normal(3)}
    return inputs, {"height": 4, "width": 6, "scale": 0.5, "return_attn": True, "return_nonlocality": True}


@case
def gpsa__nine_taps(d):
    return qkv(d, T=20, H=9, HK=9, HV=9, V=3) | {"gating": d.normal(9)}, {
        "height": 4, "width": 5, "locality_strength": 2.5, "return_nonlocality": True,
    }


@case
def gpsa__a_row(d):
    return qkv(d, T=13, HK=4), {"height": 1, "width": 13, "return_attn": True}
