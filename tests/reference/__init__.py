"""Definitions of the operators in NumPy float64, written from their equations and from nothing else of the project:
token by token or pair by pair, as slow as they are plain. `REFERENCE[op](**inputs, **attributes)` gives the outputs by
name."""

from tests.reference.based import based
from tests.reference.block_sparse_attention import block_sparse_attention
from tests.reference.delta_rule import delta_rule
from tests.reference.flow_attention import flow_attention
from tests.reference.gated_delta_rule import gated_delta_rule
from tests.reference.gla import gla
from tests.reference.hgrn2 import hgrn2
from tests.reference.kda import kda
from tests.reference.lightning_attention import lightning_attention
from tests.reference.linear_attention import linear_attention
from tests.reference.mala import mala
from tests.reference.mla import mla
from tests.reference.neighborhood_attention import neighborhood_attention
from tests.reference.retention import retention
from tests.reference.short_conv import short_conv
from tests.reference.softmax_attention import softmax_attention
from tests.reference.ssd import ssd

REFERENCE = {
    function.__name__: function
    for function in (
        based,
        block_sparse_attention,
        delta_rule,
        flow_attention,
        gated_delta_rule,
        gla,
        hgrn2,
        kda,
        lightning_attention,
        linear_attention,
        mala,
        mla,
        neighborhood_attention,
        retention,
        short_conv,
        softmax_attention,
        ssd,
    )
}
