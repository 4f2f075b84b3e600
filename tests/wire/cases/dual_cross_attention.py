import numpy as np

from tests.wire.draw import case


def image(d, tokens=41):
    return {"q": d.normal(2, tokens, 3, 8), "k": d.normal(2, tokens, 3, 8), "v": d.normal(2, tokens, 3, 5)}


def maps(d, *shape):
    scores = np.exp(2 * d.normal(*shape))
    return {"attn": scores / scores.sum(-1, keepdims=True)}


@case
def dual_cross_attention__glca(d):
    return image(d) | maps(d, 2, 3, 4, 41, 41), {}


@case
def dual_cross_attention__glca_without_its_prefix(d):
    attributes = {"num_prefix": 3, "top_ratio": 0.4, "include_prefix": False, "scale": 0.6}
    return image(d) | maps(d, 2, 2, 41, 41), attributes


@case
def dual_cross_attention__glca_of_a_number(d):
    return image(d) | maps(d, 2, 1, 2, 41, 41), {"top_r": 11}


@case
def dual_cross_attention__pwca(d):
    return image(d) | {"k2": d.normal(2, 17, 3, 8), "v2": d.normal(2, 17, 3, 5)}, {"mode": "pwca"}


@case
def dual_cross_attention__pwca_alone(d):
    return image(d) | {"k2": d.normal(2, 0, 3, 8), "v2": d.normal(2, 0, 3, 5)}, {"mode": "pwca", "scale": 0.2}
