from tests.wire.draw import case

FLOAT32 = {"q", "k", "log_decay", "norm_weight", "w_o"}


def grid(d, axes, tokens, heads=3, size=12, B=2):
    return {
        "x": d.normal(B, tokens, size), "q": d.normal(axes, size), "k": d.normal(axes, size),
        "log_decay": d.normal(axes, heads),
    }


@case
def md_tpe__one_axis(d):
    return grid(d, 1, 70), {}


@case
def md_tpe__image_with_weights(d):
    weights = {"norm_weight": d.normal(2, 12), "w_o": d.normal(2, 12, 12)}
    return grid(d, 2, 35) | weights, {"height": 5, "width": 7, "residual": True}


@case
def md_tpe__volume(d):
    return grid(d, 3, 60, heads=1), {"depth": 3, "height": 4, "width": 5, "scale": 0.3, "eps": 0.1}


@case
def md_tpe__width_alone_one_channel_a_head(d):
    return grid(d, 1, 9, heads=12), {"width": 9, "eps": 1.0}
