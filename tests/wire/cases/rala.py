from tests.wire.draw import case, qkv


@case
def rala__plain(d):
    return qkv(d, S=50, HK=4), {}


@case
def rala__gated(d):
    return qkv(d, T=1, S=3, HK=4, K=5, V=7) | {"gate": d.normal(2, 1, 4, 7)}, {"scale": 0.9, "eps": 1e-3}


@case
def rala__everything(d):
    inputs = qkv(d, T=35, HK=4) | {"gate": d.normal(2, 35, 4, 20)}
    return inputs | {"lepe_weight": d.normal(80, 5, 3), "lepe_bias": d.normal(80)}, {
        "rope": "axial2d", "height": 5, "width": 7, "rope_base": 300.0, "scale": 0.4, "eps": 1e-4,
    }


@case
def rala__one_frequency(d):
    return qkv(d, T=12, HK=4, K=4) | {"lepe_weight": d.normal(80, 1, 3)}, {
        "rope": "axial2d", "height": 3, "width": 4,
    }
