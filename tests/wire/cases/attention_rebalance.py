import numpy as np

from tests.wire.draw import case, qkv

FLOAT32 = {"head_weight"}


def maps(d, side, heads=3):
    return {name: np.exp(2 * d.normal(2, heads, side, side)) for name in ("attn_first", "attn_deep")}


@case
def attention_rebalance__maps(d):
    return qkv(d, T=19, S=40) | maps(d, 26), {"img_start": 4}


@case
def attention_rebalance__all_rows_and_heads(d):
    attributes = {"img_start": 0, "rows": "all", "spatial_ratio": 0.3, "vit_prefix": 2, "alpha": 1.5, "scale": 0.4}
    return qkv(d, T=19, S=40) | maps(d, 26) | {"head_weight": d.probability(4)}, attributes


@case
def attention_rebalance__masks(d):
    masks = {"top_mask": d.mask(2, 17), "bottom_mask": d.mask(2, 17)}
    return qkv(d, T=33, S=21) | masks | {"mask": d.mask(2, 33, 21)}, {"img_start": 4, "causal": False}


@case
def attention_rebalance__long_rows(d):
    masks = {"top_mask": d.mask(1, 30), "bottom_mask": d.mask(1, 30)}
    return qkv(d, B=1, T=150) | masks | {"mask": d.mask(150, 150)}, {"img_start": 100, "rows": "all"}


@case
def attention_rebalance__decode(d):
    return qkv(d, T=1, S=40) | maps(d, 26), {"img_start": 15, "beta": 0.9}
