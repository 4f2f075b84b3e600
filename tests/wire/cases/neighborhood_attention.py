from tests.wire.draw import case, qkv


@case
def neighborhood_attention__one_axis(d):
    return qkv(d, HV=2), {"window": 7, "return_lse": True}


@case
def neighborhood_attention__even_window(d):
    return qkv(d, HV=2), {"window": [6]}


@case
def neighborhood_attention__causal_stride(d):
    return qkv(d, HV=2), {"window": 6, "stride": 3, "causal": True, "return_lse": True}


@case
def neighborhood_attention__image(d):
    return qkv(d, T=54, HV=2), {"height": 9, "width": 6, "window": [3, 4], "stride": [2, 1], "scale": 0.5}


@case
def neighborhood_attention__dilated_image(d):
    return qkv(d, T=77, HV=2), {"height": 7, "width": 11, "window": [3, 3], "dilation": [2, 3]}


@case
def neighborhood_attention__dilated_causal_stride(d):
    return qkv(d, T=77, HV=2), {
        "height": 7, "width": 11, "window": [2, 4], "dilation": [3, 2], "stride": [1, 3], "causal": [False, True],
    }


@case
def neighborhood_attention__volume_with_extra_keys(d):
    extra = {"k_extra": d.normal(2, 3, 2, 16), "v_extra": d.normal(2, 3, 2, 20)}
    return qkv(d, T=60, HV=2) | extra, {
        "depth": 3, "height": 4, "width": 5, "window": [2, 3, 3], "causal": [True, False, False], "return_lse": True,
    }
