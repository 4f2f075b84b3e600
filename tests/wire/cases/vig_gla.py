from tests.wire.draw import case

FLOAT32 = {"g_forward", "g_backward"}


def both(d, B=2, T=37, H=3, K=16, V=20):
    return {
        "q": d.normal(B, T, H, K), "k": d.normal(B, T, H, K), "v": d.normal(B, T, H, V),
        "g_forward": d.decay(B, T, H, K), "g_backward": d.decay(B, T, H, K),
    }


@case
def vig_gla__plain(d):
    return both(d, T=70), {}


@case
def vig_gla__normalised(d):
    return both(d, K=5) | {"norm_weight": d.normal(20)}, {"scale": 0.7, "norm_eps": 0.01}


@case
def vig_gla__mixed(d):
    branch = {"local": d.normal(2, 37, 3, 20), "local_norm_weight": d.normal(20), "gate": 3.0 * d.normal(2, 37, 3, 20)}
    return both(d) | {"norm_weight": d.normal(20)} | branch, {}


@case
def vig_gla__total_forgetting(d):
    inputs = both(d, B=1, T=30, V=7)
    inputs["g_forward"][:, 12] = -float("inf")
    inputs["g_backward"][:, 20] = -float("inf")
    return inputs, {}
