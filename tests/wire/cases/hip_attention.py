from tests.wire.draw import case, packed, qkv

SMALL = {"mask_k": 8, "block_size_q": 8, "sliding_window": 4, "sink": 2, "return_lse": True, "return_blocks": True}


@case
def hip_attention__defaults(d):
    return qkv(d, B=1, T=5, S=900, H=2, HV=2), {"return_lse": True, "return_blocks": True}


@case
def hip_attention__center(d):
    return qkv(d, T=70, HV=2), SMALL


@case
def hip_attention__first_without_sink(d):
    return qkv(d, T=70, HV=2), SMALL | {"representative": "first", "sink": 0, "block_stride_q": 3, "scale": 0.4}


@case
def hip_attention__last_without_window(d):
    attributes = {"representative": "last", "sliding_window": 0, "block_size_k": 4, "block_stride_k": 2, "sink": 4}
    return qkv(d, T=70, HV=2), SMALL | attributes


@case
def hip_attention__later_queries(d):
    return qkv(d, T=19, S=131, HV=2), SMALL


@case
def hip_attention__more_queries_than_keys(d):
    return qkv(d, T=60, S=41, HV=2), SMALL


@case
def hip_attention__packed(d):
    return qkv(d, B=1, T=90, HV=2) | {"cu_seqlens": packed(90)}, SMALL | {"mask_k": 5}
