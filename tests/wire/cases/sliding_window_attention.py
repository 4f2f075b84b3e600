from tests.wire.draw import case, packed, qkv


@case
def sliding_window_attention__causal(d):
    return qkv(d, T=70, HV=2), {"window": 11, "return_lse": True}


@case
def sliding_window_attention__sinks(d):
    return qkv(d, T=30, S=90, HV=2), {"window": 11, "sink": 4, "return_lse": True}


@case
def sliding_window_attention__both_sides_and_sinks(d):
    return qkv(d, T=70, HV=2), {"window": 5, "window_right": 3, "sink": 2, "scale": 0.3}


@case
def sliding_window_attention__more_queries_than_keys(d):
    return qkv(d, T=30, S=20, HV=2), {"window": 6, "window_right": 2, "return_lse": True}


@case
def sliding_window_attention__packed(d):
    return qkv(d, B=1, HV=2) | {"cu_seqlens": packed()}, {"window": 4, "sink": 1, "return_lse": True}
