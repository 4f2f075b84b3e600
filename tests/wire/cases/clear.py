from tests.wire.draw import case, qkv


@case
def clear__image(d):
    return qkv(d, T=77, HV=2), {"height": 7, "width": 11, "radius": 3.0, "return_lse": True}


@case
def clear__several_tiles(d):
    return qkv(d, B=1, T=18 * 35 + 3, H=2, HK=1, HV=1, K=8, V=5), {
        "height": 18, "width": 35, "text_length": 3, "radius": 5.5,
    }


@case
def clear__text_and_pooled(d):
    return qkv(d, T=53, HV=2) | {"spatial_weight": d.normal(2, 2)}, {
        "height": 6, "width": 8, "text_length": 5, "radius": 2.5, "down_factor": 2, "scale": 0.4, "return_lse": True,
    }


@case
def clear__mean_pooled(d):
    return qkv(d, T=54, HV=2, K=5, V=7), {"height": 9, "width": 6, "radius": 1.0, "down_factor": 3}


@case
def clear__everything_near(d):
    return qkv(d, T=40, HV=2), {"height": 5, "width": 7, "text_length": 5, "radius": 1e6}
