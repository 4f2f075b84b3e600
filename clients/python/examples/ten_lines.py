import sys

import numpy as np

import attnd

random = np.random.default_rng(0)
q, k, v = (random.standard_normal((1, 256, 4, 64), dtype=np.float32) for _ in range(3))
g = -np.abs(random.standard_normal((1, 256, 4), dtype=np.float32))
with attnd.Client(sys.argv[1] if len(sys.argv) > 1 else "localhost:8001") as client:
    first = client.gla(q, k, v, g)
    second = client.gla(q, k, v, g, initial_state=first.final_state)
print(second.o.shape, second.kernel, second.device)
