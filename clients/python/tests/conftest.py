import pathlib
import sys

import pytest

# The repository's own helpers; the package under test comes from PYTHONPATH.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3]))

import attnd  # noqa: E402
from tests import server  # noqa: E402
from tests.wire.session_server import Server  # noqa: E402


@pytest.fixture(scope="session")
def address():
    with server.running() as address:
        yield address


@pytest.fixture
def client(address):
    with attnd.Client(address, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def keeper(tmp_path_factory):
    """A server of a module's own whose sessions outlive it."""
    one = Server(tmp_path_factory.mktemp("server"))
    yield one
    one.stop()
    assert one.process.returncode == 0
