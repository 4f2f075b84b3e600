"""A client that knows nothing beforehand: it asks the server for its services and messages, and calls them."""

import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


@pytest.fixture
def channel(address):
    with grpc.insecure_channel(address) as channel:
        yield channel


class Reflected:
    """Services of a server, called by name."""

    def __init__(self, channel):
        self._channel = channel
        self._database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self._database)

    def services(self):
        return set(self._database.get_services())

    def method(self, service, name):
        """(callable, class of its request)."""
        descriptor = self._pool.FindServiceByName(service).FindMethodByName(name)
        request = message_factory.GetMessageClass(descriptor.input_type)
        response = message_factory.GetMessageClass(descriptor.output_type)
        call = self._channel.unary_unary(
            f"/{service}/{name}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return call, request


def test_every_service_is_there(channel):
    services = Reflected(channel).services()
    assert {"attnd.v1.Operators", "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services


def test_a_call_without_any_generated_code(channel):
    reflected = Reflected(channel)
    list_operators, request = reflected.method("attnd.v1.Operators", "List")
    ids = [op.id for op in list_operators(request()).operators]
    assert "gla" in ids

    describe, request = reflected.method("attnd.v1.Operators", "Describe")
    description = describe(request(op="short_conv"))
    assert [port.name for port in description.inputs][:2] == ["x", "weight"]

    evaluate, request = reflected.method("attnd.v1.Operators", "Evaluate")
    call = request(op="short_conv")
    x = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    weight = np.array([[1, 1], [0, 1]], np.float32)
    for name, array in {"x": x, "weight": weight}.items():
        call.inputs[name].dtype = 6  # FLOAT32
        call.inputs[name].shape.extend(array.shape)
        call.inputs[name].data = array.tobytes()
    call.attributes["activation"].string_value = "none"
    output = evaluate(call).outputs["o"]
    o = np.frombuffer(output.data, np.float32).reshape(output.shape)
    np.testing.assert_array_equal(o[0, :, 0], [0, 2, 6])
    np.testing.assert_array_equal(o[0, :, 1], [1, 3, 5])


def test_health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", "attnd.v1.Operators", "inference.GRPCInferenceService"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == serving, service
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nonsense"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_is_watched(channel):
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
