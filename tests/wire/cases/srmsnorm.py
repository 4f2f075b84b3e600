from tests.wire.draw import case


@case
def srmsnorm__rows(d):
    return {"x": 3.0 * d.normal(9, 50)}, {}


@case
def srmsnorm__one_row(d):
    return {"x": d.normal(1030)}, {"eps": 0.1}


@case
def srmsnorm__eps_outside(d):
    return {"x": d.normal(2, 7, 3, 17)}, {"eps": 0.5, "eps_position": "outside"}


@case
def srmsnorm__five_axes_no_eps(d):
    return {"x": d.normal(2, 3, 1, 5, 8)}, {"eps": 0.0}


@case
def srmsnorm__three_axes(d):
    return {"x": d.normal(2, 37, 1)}, {"eps_position": "outside"}
