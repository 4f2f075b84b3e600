"""Sessions of operators, of the synchronous and the asynchronous client."""

import asyncio

import numpy as np
import pytest

import attnd


@pytest.fixture
def client(keeper):
    with attnd.Client(keeper.address, timeout=60) as client:
        yield client


def inputs_of(seed, length):
    draw = np.random.default_rng(seed)
    shape = (1, length, 2, 8)
    arrays = {name: draw.standard_normal(shape, dtype=np.float32) for name in "qkv"}
    return {**arrays, "g": -np.abs(draw.standard_normal(shape, dtype=np.float32)) / 10}


def test_a_state_goes_on(keeper, client, tmp_path):
    first, second, third = (inputs_of(seed, length) for seed, length in ((1, 5), (2, 1), (3, 4)))
    one = client.gla(**first, scale=0.5)
    two = client.gla(**second, scale=0.5, initial_state=one.final_state)
    three = client.gla(**third, scale=0.5, initial_state=two.final_state)

    session = attnd.OperatorSession.create(client, "gla", {"scale": 0.5}, labels={"of": "test"})
    assert (session.op, session.position) == ("gla", 0)
    step = session.append(first)
    assert list(step) == ["o"] and step.kernel == one.kernel and step.device == one.device
    np.testing.assert_array_equal(step["o"], one.o)
    np.testing.assert_array_equal(session.append(**second)["o"], two.o)
    assert session.position == 6
    info = session.info()
    assert (info.op, info.model, info.position, info.labels) == ("gla", "", 6, {"of": "test"})
    assert session.name in [one.name for one in attnd.OperatorSession.list(client)]

    session.snapshot("six")
    fork = session.fork()
    path = tmp_path / "state.safetensors"
    session.save(path)
    keeper.stop()
    keeper.start()
    again = attnd.OperatorSession.open(client, session.name)
    assert again.position == 6
    state = again.append(third, outputs=["final_state", "o"])
    np.testing.assert_array_equal(state["o"], three.o)
    np.testing.assert_array_equal(state["final_state"], three.final_state)
    again.rewind(5)
    np.testing.assert_array_equal(again.append(second)["o"], two.o)
    again.restore("six")
    for other in (again, fork, attnd.OperatorSession.load(client, path)):
        np.testing.assert_array_equal(other.append(third)["o"], three.o)
        other.delete()
    with pytest.raises(attnd.NotFound):
        session.info()


def test_kinds_of_sessions_are_told_apart(client):
    operator = attnd.OperatorSession.create(client, "gla")
    with pytest.raises(TypeError, match="of the operator gla, which Session is not for"):
        attnd.Session.open(client, operator.name)
    tokens = attnd.Session.create(client, "gla")
    with pytest.raises(TypeError, match="of the language model gla, which OperatorSession is not for"):
        attnd.OperatorSession.open(client, tokens.name)
    with pytest.raises(attnd.InvalidArgument, match="gla: g: "):
        operator.append({name: array for name, array in inputs_of(1, 2).items() if name != "g"})
    with pytest.raises(TypeError, match="gla: q: "):
        operator.append(q=np.array(["text"]))
    with pytest.raises(attnd.OutOfRange):
        operator.rewind(3)


def test_the_asynchronous_client_does_the_same(keeper):
    async def work():
        async with attnd.AsyncClient(keeper.address, timeout=60) as client:
            session = await attnd.AsyncOperatorSession.create(client, "gla")
            first = await session.append(inputs_of(1, 3))
            fork = await session.fork(position=0)
            np.testing.assert_array_equal((await fork.append(inputs_of(1, 3)))["o"], first["o"])
            await session.rewind(0)
            assert session.position == 0
            assert (await attnd.AsyncOperatorSession.open(client, fork.name)).position == 3

    asyncio.run(work())
