"""Sessions of the synchronous and the asynchronous client, through the death of their server."""

import asyncio
import random
import time

import pytest
from safetensors.numpy import load_file

import attnd

HOT = attnd.Sampling(temperature=1, logprobs=True)


@pytest.fixture
def client(keeper):
    with attnd.Client(keeper.address, timeout=60) as client:
        yield client


def prompt_of(count):
    return [random.randrange(96) for _ in range(count)]


def begun(client, prompt, **options):
    session = attnd.Session.create(client, "gated_deltanet", seed=3, **options)
    assert session.append(prompt) == list(prompt)
    return session


def sampled(session, count, **options):
    return [token.id for token in session.decode(count, sampling=HOT, ignore_eos=True, **options)]


def test_tokens_and_text(client):
    session = begun(client, prompt_of(20))
    decode = session.decode(30, sampling=HOT, ignore_eos=True)
    tokens = list(decode)
    assert [token.position for token in tokens] == list(range(20, 50))
    assert all(token.logprob < 0 for token in tokens)
    assert (decode.finish, session.position) == ("length", 50)
    assert "".join(token.text for token in tokens) == decode.text[: sum(len(token.text) for token in tokens)]
    other = begun(client, session_tokens := prompt_of(20))
    text = "".join(other.text(40, sampling=HOT, ignore_eos=True))
    again = begun(client, session_tokens).decode(40, sampling=HOT, ignore_eos=True)
    list(again)
    assert text == again.text


def test_text_goes_in_and_errors_come_out(client):
    session = attnd.Session.create(client, "gla", name=f"named{random.randrange(1 << 60)}", labels={"a": "b"})
    # The model's tokens are the bytes below 96.
    assert session.append("HI!") == [72, 73, 33]
    assert session.info().labels == {"a": "b"}
    assert attnd.Session.open(client, session.name).position == session.position
    assert session.name in {info.name for info in attnd.Session.list(client, "named")}
    with pytest.raises(attnd.InvalidArgument, match="expected \\[0, 96\\)"):
        session.append([96])
    with pytest.raises(attnd.NotFound, match="known are"):
        attnd.Session.create(client, "nope")
    stale = attnd.Session.open(client, session.name)
    session.append([1])
    with pytest.raises(attnd.FailedPrecondition, match="expected_position"):
        stale.append([2])
    session.delete()
    with pytest.raises(attnd.NotFound):
        session.info()


def test_a_loop_that_is_left_leaves_the_session_behind_the_last_token_seen(client):
    prompt = prompt_of(10)
    session = begun(client, prompt)
    seen = []
    decode = session.decode(100000, sampling=HOT, ignore_eos=True)
    for token in decode:
        seen.append(token.id)
        if len(seen) == 7:
            break
    assert session.position == 17
    session.append([5])
    assert session.position == 18
    assert sampled(session, 20) == sampled(begun(client, prompt + seen + [5]), 20)
    with pytest.raises(attnd.Cancelled):
        next(decode)


def test_forks_rewinds_and_snapshots(client):
    prompt = prompt_of(40)
    session = begun(client, prompt)
    session.snapshot("here")
    first = sampled(session, 30)
    fork = session.fork(position=40)
    assert sampled(fork, 30) == first
    assert sampled(session.fork(position=40, seed=8), 30) != first
    session.rewind(25)
    assert sampled(session, 30) == sampled(begun(client, prompt[:25]), 30)
    session.restore("here")
    assert (session.position, sampled(session, 30)) == (40, first)
    with pytest.raises(attnd.OutOfRange):
        session.rewind(1000)


def test_files(client, tmp_path):
    prompt = prompt_of(70)
    session = begun(client, prompt)
    path = tmp_path / "tale.safetensors"
    session.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tale.safetensors"]
    assert load_file(path)["tokens"].tolist() == prompt
    expected = sampled(session, 40)
    for recompute in (False, True):
        assert sampled(attnd.Session.load(client, path, recompute=recompute), 40) == expected
    with pytest.raises(attnd.FailedPrecondition, match="weights_hash"):
        attnd.Session.load(client, path, model="kda")
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(attnd.DataLoss, match="damaged"):
        attnd.Session.load(client, path)


def test_a_killed_server_is_not_noticed(keeper, client):
    prompt = prompt_of(50)
    expected = sampled(begun(client, prompt), 2000)
    session = begun(client, prompt)
    got = []
    for at in (1, 2, 3):
        killer = keeper.kill_and_start(random.uniform(0, 0.1))
        got += sampled(session, 500 if at < 3 else 1000)
        killer.join()
    assert got == expected
    killer = keeper.kill_and_start(0)
    time.sleep(0.01)
    session.append([1, 2, 3])
    killer.join()
    assert session.info().position == session.position == 2053


def test_patience_ends():
    with attnd.Client("localhost:1") as client, pytest.raises(attnd.Unavailable):
        attnd.Session.create(client, "gla", patience=0.5)


def test_asyncio(keeper, client, tmp_path):
    prompt = prompt_of(30)
    expected = sampled(begun(client, prompt), 600)

    async def one(asynchronous):
        session = await attnd.AsyncSession.create(asynchronous, "gated_deltanet", seed=3)
        await session.append(prompt)
        decode = session.decode(600, sampling=HOT, ignore_eos=True)
        ids = [token.id async for token in decode]
        assert decode.finish == "length"
        return session, ids

    async def body():
        async with attnd.AsyncClient(keeper.address, timeout=60) as asynchronous:
            killer = keeper.kill_and_start(0.05)
            answers = await asyncio.gather(*(one(asynchronous) for _ in range(4)))
            await asyncio.to_thread(killer.join)
            assert [ids for _, ids in answers] == [expected] * 4
            session = answers[0][0]
            await session.snapshot("end")
            await session.rewind(30)
            fork = await session.fork()
            text = "".join([piece async for piece in fork.text(50, sampling=HOT, ignore_eos=True)])
            assert text
            async for token in session.decode(100000, sampling=HOT, ignore_eos=True):
                if token.position == 40:
                    break
            assert session.position == 41
            await session.append([1])
            await session.restore("end")
            assert session.position == 630
            await session.save(tmp_path / "s.safetensors")
            loaded = await attnd.AsyncSession.load(asynchronous, tmp_path / "s.safetensors")
            assert (loaded.position, (await loaded.info()).model) == (630, "gated_deltanet")
            opened = await attnd.AsyncSession.open(asynchronous, loaded.name)
            names = {info.name async for info in attnd.AsyncSession.list(asynchronous, loaded.name)}
            assert names == {opened.name}
            await loaded.delete()
            with pytest.raises(attnd.NotFound):
                await loaded.info()

    asyncio.run(body())


def test_models_say_where_they_run(keeper):
    with attnd.Client(keeper.address, timeout=60) as client:
        loaded = client.load_model("gla")
        assert (loaded.name, loaded.loaded, loaded.device) == ("gla", True, "cpu")
        assert loaded.vocab_size == 96 and loaded.state_bytes > 0
        models = {model.name: model for model in client.models()}
        assert models["gla"] == loaded
        assert {model.device for model in models.values()} == {"cpu"}
        client.unload_model("gla")
        assert not {model.name: model for model in client.models()}["gla"].loaded
        with pytest.raises(attnd.NotFound):
            client.load_model("none")

    async def main():
        async with attnd.AsyncClient(keeper.address, timeout=60) as client:
            assert (await client.load_model("gla")).device == "cpu"
            assert "gla" in [model.name for model in await client.models() if model.loaded]
            await client.unload_model("gla")

    asyncio.run(main())
