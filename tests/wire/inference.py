"""Calls over the Open Inference Protocol by the stock client, arrays in and out."""

import json

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton

DATATYPES = {
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.int32): "INT32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.float16): "FP16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.float32): "FP32",
    np.dtype(np.float64): "FP64",
}


def tensor(name, array):
    array = np.ascontiguousarray(array)
    wire = triton.InferInput(name, array.shape, DATATYPES[array.dtype])
    wire.set_data_from_numpy(array)
    return wire


def parameters(attributes):
    """Attributes as request parameters: lists as JSON text."""
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in attributes.items()}


def arrays(result):
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def infer(client, op, inputs, attributes=None, **options):
    """Outputs by name."""
    wire = [tensor(name, array) for name, array in inputs.items()]
    return arrays(client.infer(op, wire, parameters=parameters(attributes or {}), **options))
