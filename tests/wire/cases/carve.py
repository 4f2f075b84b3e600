import numpy as np

from tests.wire.draw import case

SIZES = {"height": 6, "width": 8, "image_height": 29, "image_width": 45}


def maps(d, *shape):
    """Attention of one position to the image, with some peaks."""
    scores = np.exp(1.5 * d.normal(*shape))
    return scores / scores.sum(-1, keepdims=True)


@case
def carve__defaults(d):
    return {"attn_task": maps(d, 2, 4, 3, 48), "attn_general": maps(d, 2, 3, 3, 48)}, SIZES


@case
def carve__heads_first_step_sizes(d):
    attributes = SIZES | {"step_mode": "first", "strategy": "size", "layers": [2, 0], "min_keep_regions": 1}
    return {"attn_task": maps(d, 2, 2, 3, 5, 48), "attn_general": maps(d, 2, 1, 3, 2, 48)}, attributes


@case
def carve__small_regions_removed(d):
    attributes = SIZES | {"strategy": "remove_small", "outlier_percent": 9.0, "top_percent": 0.31, "lam": 0.01}
    return {"attn_task": maps(d, 2, 1, 2, 48), "attn_general": maps(d, 2, 1, 2, 3, 48)}, attributes


@case
def carve__image_of_the_grid(d):
    attributes = {"height": 9, "width": 7, "image_height": 9, "image_width": 7, "top_percent": 0.4}
    return {"attn_task": maps(d, 1, 1, 1, 63), "attn_general": maps(d, 1, 1, 1, 63)}, attributes
