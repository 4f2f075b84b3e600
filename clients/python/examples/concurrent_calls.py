"""Many calls at once: the server packs those that fit together into one launch."""

import asyncio
import sys

import numpy as np

import attnd


async def main(address: str) -> None:
    random = np.random.default_rng(0)

    def draw(tokens: int) -> np.ndarray:
        return random.standard_normal((1, tokens, 4, 32), dtype=np.float32)

    async with attnd.AsyncClient(address) as client:
        lengths = range(16, 80)
        calls = [client.softmax_attention(draw(n), draw(n), draw(n), causal=True) for n in lengths]
        results = await asyncio.gather(*calls)
    for n, result in zip(lengths, results):
        print(f"{n} tokens: {result.o.shape} from {result.kernel}, in a launch of {result.batch_size}")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:8001"))
