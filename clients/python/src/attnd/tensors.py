"""NumPy arrays to wire tensors and back. bfloat16 arrays have the dtype `ml_dtypes.bfloat16`."""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from attnd.v1 import tensor_pb2

bfloat16 = np.dtype(ml_dtypes.bfloat16)

Array: TypeAlias = npt.NDArray[Any]
# Anything numpy.asarray takes, PyTorch tensors on the CPU included.
ArrayLike: TypeAlias = npt.ArrayLike

_WIRE_TYPES: dict[np.dtype[Any], tensor_pb2.DataType] = {
    np.dtype(np.bool_): tensor_pb2.BOOL,
    np.dtype(np.int32): tensor_pb2.INT32,
    np.dtype(np.int64): tensor_pb2.INT64,
    np.dtype(np.float16): tensor_pb2.FLOAT16,
    bfloat16: tensor_pb2.BFLOAT16,
    np.dtype(np.float32): tensor_pb2.FLOAT32,
    np.dtype(np.float64): tensor_pb2.FLOAT64,
}
_NUMPY_TYPES = {wire: dtype for dtype, wire in _WIRE_TYPES.items()}


def wire_type(dtype: npt.DTypeLike) -> tensor_pb2.DataType:
    """The wire's name for a NumPy type. TypeError if it has none."""
    wire = _WIRE_TYPES.get(np.dtype(dtype).newbyteorder("="))
    if wire is None:
        known = ", ".join(str(known) for known in _WIRE_TYPES)
        raise TypeError(f"no wire type for arrays of {np.dtype(dtype)}; expected one of {known}")
    return wire


def numpy_type(wire: tensor_pb2.DataType) -> np.dtype[Any]:
    """The NumPy type of a wire type. ValueError if this package does not know it."""
    dtype = _NUMPY_TYPES.get(wire)
    if dtype is None:
        raise ValueError(f"unknown wire type {wire}")
    return dtype


def canonical(value: ArrayLike) -> Array:
    """`value` as a row-major, little-endian array of a type that the wire has; a copy only where needed."""
    array = np.asarray(value)
    wire_type(array.dtype)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    # ascontiguousarray would give a scalar an axis.
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def header(array: Array) -> tensor_pb2.Tensor:
    """Type and shape of a canonical array, without its bytes."""
    return tensor_pb2.Tensor(dtype=wire_type(array.dtype), shape=array.shape)


def to_wire(array: Array) -> tensor_pb2.Tensor:
    """A canonical array as a message."""
    message = header(array)
    message.data = array.tobytes()
    return message


def byte_view(array: Array) -> memoryview:
    """The bytes of a canonical array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def from_wire(message: tensor_pb2.Tensor) -> Array:
    """A message as a writable array. ValueError if its bytes do not fit its shape."""
    array = empty(message)
    if array.nbytes != len(message.data):
        raise ValueError(
            f"tensor of {array.dtype}{list(array.shape)} came with {len(message.data)} bytes, expected {array.nbytes}"
        )
    byte_view(array)[:] = message.data
    return array


def empty(message: tensor_pb2.Tensor) -> Array:
    """An uninitialised array of a message's type and shape."""
    return np.empty(tuple(message.shape), dtype=numpy_type(message.dtype))
