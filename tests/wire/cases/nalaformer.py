from tests.wire.draw import case, qkv


@case
def nalaformer__plain(d):
    return qkv(d, S=50, HK=4), {}


@case
def nalaformer__a_zero_query(d):
    inputs = qkv(d, HK=4, K=5, V=7)
    inputs["q"][:, 3] = 0.0
    return inputs, {"power_scale": 2.0, "power_shift": 0.75, "key_power": 2.0, "eps": 1e-3}


@case
def nalaformer__everything(d):
    inputs = qkv(d, T=35, HK=4) | {"gate": d.normal(2, 35, 4, 20)}
    inputs |= {"norm_weight": d.normal(80), "norm_bias": d.normal(80)}
    return inputs | {"lepe_weight": d.normal(80, 5, 3), "lepe_bias": d.normal(80)}, {
        "rope": "axial2d", "height": 5, "width": 7, "rope_base": 300.0, "norm_eps": 1e-3,
    }


@case
def nalaformer__normed(d):
    inputs = qkv(d, S=21, HK=4, V=3)
    return inputs | {"norm_weight": d.normal(12), "norm_bias": d.normal(12)}, {}
