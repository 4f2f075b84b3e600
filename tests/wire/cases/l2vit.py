from tests.wire.draw import case, qkv

FLOAT32 = {"bn_var"}


@case
def l2vit__global(d):
    return qkv(d, S=50, HK=4), {}


@case
def l2vit__global_above_the_floor(d):
    return qkv(d, HK=4, K=5, V=7) | {"temperature": d.normal(4)}, {"denom_min": 0.5}


@case
def l2vit__windows(d):
    return qkv(d, T=77, HK=4), {"mode": "window", "height": 7, "width": 11, "window": 4}


@case
def l2vit__windows_with_padding(d):
    inputs = qkv(d, T=35, HK=4) | {"pad_k": d.normal(4, 16), "pad_v": d.normal(4, 20)}
    return inputs, {"mode": "window", "height": 5, "width": 7, "scale": 0.4}


@case
def l2vit__local(d):
    inputs = {"x": d.normal(2, 35, 12), "conv1_weight": d.normal(12, 7, 5), "conv2_weight": d.normal(12, 3, 1)}
    inputs |= {name: d.normal(12) for name in ("conv1_bias", "conv2_bias", "bn_weight", "bn_bias", "bn_mean")}
    return inputs | {"bn_var": d.probability(12)}, {"mode": "local", "height": 5, "width": 7, "bn_eps": 1e-3}
