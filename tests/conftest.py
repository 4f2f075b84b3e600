import pytest
import tritonclient.grpc

from tests import server


@pytest.fixture(scope="session")
def address():
    with server.running() as address:
        yield address


@pytest.fixture
def triton(address):
    with tritonclient.grpc.InferenceServerClient(address) as client:
        yield client
