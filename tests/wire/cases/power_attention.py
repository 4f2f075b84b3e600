from tests.wire.draw import case, packed, qkv


@case
def power_attention__defaults(d):
    return qkv(d, B=1, T=9, S=2600, HV=2), {"return_lse": True}


@case
def power_attention__small_blocks(d):
    return qkv(d, T=70, HV=2), {"block_size": 4, "window_blocks": 2, "return_lse": True}


@case
def power_attention__no_window_no_sinks(d):
    return qkv(d, T=67, HV=2), {"block_size": 3, "window_blocks": 0, "sink_blocks": 0, "scale": 0.3}


@case
def power_attention__later_queries(d):
    return qkv(d, T=30, S=91, HV=2), {"block_size": 6, "window_blocks": 1, "sink_blocks": 2, "return_lse": True}


@case
def power_attention__more_queries_than_keys(d):
    return qkv(d, T=30, S=21, HV=2), {"block_size": 4, "window_blocks": 1, "return_lse": True}


@case
def power_attention__packed(d):
    return qkv(d, B=1, HV=2) | {"cu_seqlens": packed()}, {"block_size": 4, "window_blocks": 1, "return_lse": True}
