"""Every operator, called over the Open Inference Protocol, against its definition in NumPy float64 (tests/reference) on
fresh inputs. ATTND_TEST_SEED repeats a run; the seed is part of every failure's text."""

import os
import secrets

import ml_dtypes
import numpy as np
import pytest

from tests.reference import REFERENCE
from tests.wire.cases import CASES, said
from tests.wire.draw import Draw
from tests.wire.inference import infer

SEED = int(os.environ.get("ATTND_TEST_SEED", secrets.randbits(32)))

TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2, "float64": 1e-9}


def tolerance(op, dtype):
    return 1e-4 if dtype == "float32" and said(op, "AMPLIFIES", False) else TOLERANCE[dtype]


def typed(op, inputs, dtype):
    """Inputs in the types that a caller with tensors of `dtype` sends."""

    def convert(name, array):
        if array.dtype != np.float64 or dtype == "float64":
            return array
        return array.astype(np.float32 if name in said(op, "FLOAT32", ()) else TYPES[dtype])

    return {name: convert(name, array) for name, array in inputs.items()}


def widened(inputs):
    """The same numbers as float64."""
    return {name: x if x.dtype.kind in "bi" else x.astype(np.float64) for name, x in inputs.items()}


def check(op, what, outputs, expected, limit):
    assert set(outputs) == set(expected), f"seed {SEED}: {what}: outputs {sorted(outputs)}"
    for name, reference in expected.items():
        given = outputs[name]
        where = f"seed {SEED}: {op}: {what}: {name}"
        assert given.shape == reference.shape, where
        if reference.dtype.kind == "i":
            np.testing.assert_array_equal(given, reference, err_msg=where)
            continue
        given = given.astype(np.float64)
        finite = np.isfinite(reference)
        np.testing.assert_array_equal(given[~finite], reference[~finite], err_msg=where)
        assert np.isfinite(given[finite]).all(), where
        norm = np.linalg.norm(reference[finite])
        error = np.linalg.norm(given[finite] - reference[finite])
        assert error <= limit * norm, f"{where}: relative error {error / norm if norm else error:.3g}, limit {limit}"


ALL = [pytest.param(op, name, id=f"{op}-{name}") for op in sorted(CASES) for name in CASES[op]]


def draw(op, name):
    """A case's own inputs, whatever runs beside it."""
    return CASES[op][name](Draw([SEED, *f"{op}/{name}".encode()]))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op, name", ALL)
def test_operator(triton, op, name, dtype):
    inputs, attributes = draw(op, name)
    given = typed(op, inputs, dtype)
    expected = REFERENCE[op](**widened(given), **attributes)
    check(op, f"{name} {dtype}", infer(triton, op, given, attributes), expected, tolerance(op, dtype))


@pytest.mark.parametrize("op, name", ALL)
def test_composed_definition(triton, op, name):
    inputs, attributes = draw(op, name)
    given = typed(op, inputs, "float32")
    expected = REFERENCE[op](**widened(given), **attributes)
    outputs = infer(triton, op, given, {**attributes, "attnd_kernel": "composed"})
    check(op, f"{name} composed", outputs, expected, tolerance(op, "float32"))


STATEFUL = [(op, attributes) for op in sorted(CASES) for attributes in said(op, "PIECES", ())]


def sequence_inputs(d, op, tokens):
    return said(op, "pieces", None)(d, tokens)


def piece_of(along, begin, end):
    return {name: x[:, begin:end] for name, x in along.items()}


def joined(pieces):
    """The outputs that have tokens, of all pieces."""
    names = [name for name in pieces[0] if not name.startswith("final_state")]
    return {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in names}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op, attributes", STATEFUL, ids=lambda value: value if isinstance(value, str) else None)
def test_pieces_with_the_state_handed_on(triton, op, attributes, dtype):
    """Several calls, each from the state that the last one gave, against the definition of the whole."""
    cuts = [0, 1, 2, 35, 35, 67, 100]
    along, fixed = sequence_inputs(Draw([SEED, 1]), op, cuts[-1])
    along, fixed = typed(op, along, dtype), typed(op, fixed, dtype)
    expected = REFERENCE[op](**widened(along), **widened(fixed), **attributes)

    states, pieces = {}, []
    for begin, end in zip(cuts[:-1], cuts[1:]):
        outputs = infer(triton, op, piece_of(along, begin, end) | fixed | states, attributes)
        states = {
            name.replace("final_", "initial_"): x for name, x in outputs.items() if name.startswith("final_state")
        }
        pieces.append(outputs)
    outputs = joined(pieces) | {name.replace("initial_", "final_"): x for name, x in states.items()}
    check(op, f"pieces {dtype}", outputs, expected, tolerance(op, dtype))


@pytest.mark.parametrize("op, attributes", STATEFUL, ids=lambda value: value if isinstance(value, str) else None)
def test_state_kept_by_the_server(triton, op, attributes):
    """The same, with the state kept under a sequence id."""
    cuts = [0, 3, 40, 41, 90]
    along, fixed = sequence_inputs(Draw([SEED, 2]), op, cuts[-1])
    along, fixed = typed(op, along, "float32"), typed(op, fixed, "float32")
    expected = REFERENCE[op](**widened(along), **widened(fixed), **attributes)
    sequence = int(np.random.default_rng([SEED, 3]).integers(1, 1 << 60))
    pieces = []
    for begin, end in zip(cuts[:-1], cuts[1:]):
        outputs = infer(
            triton, op, piece_of(along, begin, end) | fixed, attributes,
            sequence_id=sequence, sequence_start=begin == 0, sequence_end=end == cuts[-1],
        )
        pieces.append(outputs)
    expected = {name: x for name, x in expected.items() if not name.startswith("final_state")}
    check(op, "kept state", joined(pieces), expected, tolerance(op, "float32"))


@pytest.mark.parametrize("op", sorted({op for op, _ in STATEFUL}))
def test_no_tokens_leave_the_state_as_it_was(triton, op):
    attributes = dict(STATEFUL)[op]
    d = Draw([SEED, 4])
    along, fixed = sequence_inputs(d, op, 9)
    along, fixed = typed(op, along, "float32"), typed(op, fixed, "float32")
    first = infer(triton, op, along | fixed, attributes)
    states = {name.replace("final_", "initial_"): x for name, x in first.items() if name.startswith("final_state")}
    outputs = infer(triton, op, piece_of(along, 0, 0) | fixed | states, attributes)
    assert all(x.shape[1] == 0 for name, x in outputs.items() if not name.startswith("final_state"))
    for name, state in states.items():
        np.testing.assert_array_equal(outputs[name.replace("initial_", "final_")], state)


def test_every_operator_of_the_server_is_checked(triton):
    served = {model.name for model in triton.get_model_repository_index().models}
    assert served == set(REFERENCE) == set(CASES)
