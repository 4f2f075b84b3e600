"""What calls take and give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from attnd.tensors import Array, ArrayLike

Attribute: TypeAlias = bool | int | float | str | list[bool] | list[int] | list[float]


@dataclass(frozen=True)
class Call:
    """One evaluation, for `evaluate_batch`."""

    op: str
    inputs: Mapping[str, ArrayLike]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    kernel: str = ""
    outputs: tuple[str, ...] = ()
    priority: int = 0


@dataclass(frozen=True)
class Timing:
    """Microseconds on the server."""

    queue_us: int
    compute_us: int
    total_us: int


class Outputs(Mapping[str, Array]):
    """Outputs by name, and what computed them."""

    def __init__(self, outputs: Mapping[str, Array], kernel: str, device: str) -> None:
        self._outputs = dict(outputs)
        #: "composed", or the name of the kernel that ran.
        self.kernel = kernel
        #: Name of the device that it ran on.
        self.device = device

    def __getitem__(self, name: str) -> Array:
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name}: {a.dtype}{list(a.shape)}" for name, a in self.items())
        return f"<{type(self).__name__} {outputs}; kernel {self.kernel} on {self.device}>"


class Result(Outputs):
    """Outputs by name, and what is known of the evaluation."""

    def __init__(
        self, outputs: Mapping[str, Array], kernel: str, device: str, batch_size: int, timing: Timing
    ) -> None:
        super().__init__(outputs, kernel, device)
        #: Calls that ran in the same launch, this one included.
        self.batch_size = batch_size
        self.timing = timing


@dataclass(frozen=True)
class Kernel:
    name: str
    #: "cpu" or "cuda".
    device: str


@dataclass(frozen=True)
class OperatorInfo:
    """A line of the catalogue."""

    id: str
    summary: str
    paper: str
    core: str
    stateful: bool
    packs_sequences: bool
    kernels: tuple[Kernel, ...]


@dataclass(frozen=True)
class ModelInfo:
    """What a server tells of a language model; of one that is not loaded no more than its name and device."""

    name: str
    loaded: bool
    #: Where it runs, or would: "cpu", or the GPU's name.
    device: str
    model_type: str
    vocab_size: int
    layers: int
    weights_hash: str
    #: Of one session: what never grows, and what grows with each token.
    state_bytes: int
    state_bytes_per_token: int


@dataclass(frozen=True)
class OutputError:
    """How far one output is from its float64 definition."""

    output: str
    max_abs: float
    max_rel: float
    #: ‖out - ref‖ / ‖ref‖
    relative: float
    rmse: float
    cosine: float
    ulp_p50: int
    ulp_p99: int
    ulp_max: int
    nan_count: int
    inf_count: int
    #: Elements where output and definition differ in being NaN or infinite.
    nonfinite_mismatch: int
    worst_index: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """A kernel against the float64 definition."""

    kernel: str
    device: str
    reference: str
    outputs: tuple[OutputError, ...]
    bitwise_repeatable: bool
    compute_us: float
    reference_us: float
    tolerance: float
    within_tolerance: bool


@dataclass(frozen=True)
class Random:
    """Inputs that the server draws from the operator's schema."""

    seed: int = 0
    dtype: npt.DTypeLike = np.float32
    #: Sizes by symbol: {"T": 4096}. Others are drawn.
    dims: Mapping[str, int] = field(default_factory=dict)
