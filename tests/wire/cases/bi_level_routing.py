from tests.wire.draw import case


def image(d, tokens, B=2, H=3, K=8, V=5):
    return {"q": d.normal(B, tokens, H, K), "k": d.normal(B, tokens, H, K), "v": d.normal(B, tokens, H, V)}


@case
def bi_level_routing__defaults(d):
    return image(d, 196, B=1), {"height": 14, "width": 14, "return_routing": True}


@case
def bi_level_routing__lepe(d):
    lepe = {"lepe_weight": d.normal(15, 3, 5), "lepe_bias": d.normal(15)}
    attributes = {"height": 6, "width": 8, "regions": 2, "top_k": 2, "return_routing": True}
    return image(d, 48) | lepe, attributes


@case
def bi_level_routing__one_region_each(d):
    return image(d, 54), {"height": 6, "width": 9, "regions": 3, "top_k": 1, "scale": 0.5, "return_routing": True}


@case
def bi_level_routing__padded(d):
    attributes = {"height": 11, "width": 7, "regions": 3, "top_k": 5, "auto_pad": True, "return_routing": True}
    return image(d, 77) | {"lepe_weight": d.normal(15, 1, 3)}, attributes
