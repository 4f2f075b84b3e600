"""The asyncio client against a real server."""

import asyncio

import numpy as np
import pytest

import attnd
from attnd import _calls


def qkv(tokens):
    random = np.random.default_rng(tokens)
    return [random.standard_normal((1, tokens, 2, 8), dtype=np.float32) for _ in range(3)]


def run(address, body):
    async def main():
        async with attnd.AsyncClient(address, timeout=60) as client:
            return await body(client)

    return asyncio.run(main())


def test_concurrent_calls_give_what_single_calls_give(address, client):
    async def body(asynchronous):
        calls = [asynchronous.softmax_attention(*qkv(n), causal=True) for n in range(1, 33)]
        return await asyncio.gather(*calls)

    for n, result in enumerate(run(address, body), start=1):
        np.testing.assert_array_equal(result.o, client.softmax_attention(*qkv(n), causal=True).o)


def test_streams_errors_and_catalogue(address, monkeypatch):
    monkeypatch.setattr(_calls, "MAX_UNARY_BYTES", 0)
    monkeypatch.setattr(_calls, "CHUNK_BYTES", 1000)

    async def body(client):
        result = await client.softmax_attention(*qkv(50))
        assert result.o.shape == (1, 50, 2, 8)
        with pytest.raises(attnd.InvalidArgument, match="softmax_attention"):
            await client.softmax_attention(*qkv(50), softcap=-1.0)
        assert await client.healthy()
        assert {op.id for op in await client.list("gla")} >= {"gla"}
        assert (await client.describe("gla")).id == "gla"
        report = await client.compare("gla", random=attnd.Random(seed=1))
        assert report.within_tolerance

    run(address, body)


def test_batches(address):
    async def body(client):
        calls = [attnd.Call("softmax_attention", dict(zip("qkv", qkv(n)))) for n in (2, 3)]
        calls.append(attnd.Call("nonsense", {}))
        return [answer async for answer in client.evaluate_batch(calls)]

    answers = run(address, body)
    assert [answer["o"].shape[1] for answer in answers[:2]] == [2, 3]
    assert isinstance(answers[2], attnd.NotFound)


def test_answers_larger_than_a_message(address):
    q = np.ones((2, 1, 10, 1024), np.float32)  # 80 MiB of states
    inputs = {"q": q, "k": q, "v": q, "g": np.zeros(q.shape[:3], np.float32)}

    async def alone(client):
        return await client.gla(**inputs)

    async def in_company(client):
        small = attnd.Call("softmax_attention", dict(zip("qkv", qkv(3))))
        return [answer async for answer in client.evaluate_batch([small, attnd.Call("gla", inputs), small])]

    np.testing.assert_array_equal(run(address, alone).final_state, 1)
    answers = run(address, in_company)
    np.testing.assert_array_equal(answers[1]["final_state"], 1)
    assert [answer["o"].shape[1] for answer in answers] == [3, 1, 3]


def test_cancelled_tasks_leave_the_client_usable(address):
    async def body(client):
        task = asyncio.create_task(client.softmax_attention(*qkv(4)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await client.softmax_attention(*qkv(4))

    assert run(address, body).o.shape == (1, 4, 2, 8)
