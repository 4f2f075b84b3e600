import numpy as np

from tests.wire.draw import case

FLOAT32 = {"lse_parts"}


@case
def merge_attention__three_parts(d):
    return {"o_parts": d.normal(3, 2, 17, 4, 20), "lse_parts": 3 * d.normal(3, 2, 17, 4)}, {}


@case
def merge_attention__parts_without_keys(d):
    o, lse = d.normal(5, 1, 13, 3, 7), 100 * d.normal(5, 1, 13, 3)
    lse[d.mask(*lse.shape)] = -np.inf
    lse[:, :, 4] = -np.inf
    o[0, :, 4] = np.nan
    return {"o_parts": o, "lse_parts": lse}, {}


@case
def merge_attention__one_part(d):
    return {"o_parts": d.normal(1, 2, 5, 1, 1), "lse_parts": d.normal(1, 2, 5, 1)}, {}
