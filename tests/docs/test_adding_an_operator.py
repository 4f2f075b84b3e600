"""Follows docs/adding-an-operator.md to the letter in a copy of the sources: writes the files that the page writes and
runs the commands that it gives.

A `./dev build` of the page builds here what the page is about, the library of kernels and its tests; the programs are
those of the build under test, which know no operator but through that library."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from tests import server
from tests.docs.pages import ROOT, Block, code_blocks

PAGE = "docs/adding-an-operator.md"
BUILD = (
    "cmake --preset release -B build -DATTND_SERVICE=OFF -DATTND_BENCH=OFF -DATTND_CUDA=OFF"
    " && cmake --build build --target operators_test"
)
ID = "scaled_values"


@pytest.fixture
def checkout(tmp_path):
    """The sources, an environment for Python, and build/bin with the programs."""
    checkout = tmp_path / "attnd"

    def left_out(folder, names):
        top = pathlib.Path(folder) == ROOT
        return [n for n in names if n == "__pycache__" or (top and (n.startswith("build") or n in (".git", ".venv")))]

    shutil.copytree(ROOT, checkout, ignore=left_out)
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    programs = checkout / "build/bin"
    programs.mkdir(parents=True)
    for name in ("attnd", "attndctl"):
        shutil.copy(server.binary().parent / name, programs)
    return checkout


def insert_among_its_like(path: pathlib.Path, line: str):
    """Before the first line of the same form that sorts after it, or after the last of that form."""
    lines = path.read_text().splitlines()
    form = re.compile(re.escape(line).replace(ID, r"\w+"))
    like = [i for i, other in enumerate(lines) if form.fullmatch(other)]
    assert like, f"{path}: nothing like {line!r}"
    at = next((i for i in like if lines[i] > line), like[-1] + 1)
    lines.insert(at, line)
    path.write_text("\n".join(lines) + "\n")


def run(commands: str, checkout: pathlib.Path):
    """The commands of a block, as one would type them, against ports of this test's own."""
    port, metrics_port = server.free_ports(2)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("ATTND_BINARY", "ATTND_TEST_ADDRESS")},
        "ATTND_PORT": str(port),
        "ATTND_METRICS_PORT": str(metrics_port),
        "ATTND_SERVER": f"localhost:{port}",
        # Objects of the build under test are found whatever the folder.
        "CCACHE_BASEDIR": str(checkout),
    }
    # Nothing that a block starts outlives it.
    script = "trap 'for job in $(jobs -p); do kill $job || true; done; wait' EXIT\n" + commands.replace("./dev build", BUILD)
    with (checkout / "log").open("w") as log:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=checkout, env=environment, stdout=log, stderr=log
        )
    output = (checkout / "log").read_text()
    assert done.returncode == 0, f"{commands}\n{output[-8000:]}"
    return output


def follow(block: Block, checkout: pathlib.Path) -> str:
    """Does what the block's paragraph says; the output, where that was to run commands."""
    *_, name = re.findall(r"`([^`]+)`", block.intro) or [""]
    path = checkout / name
    if block.intro.endswith("among its like:"):
        for line in block.text.splitlines():
            insert_among_its_like(path, line)
    elif block.intro.endswith(f"at the end of `{name}`:"):
        path.write_text(f"{path.read_text()}\n\n{block.text}")
    elif block.intro.endswith(f"`{name}`:"):
        assert not path.exists(), path
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.text)
    else:
        return run(block.text, checkout)
    return ""


def test_the_page(checkout):
    outputs = [follow(block, checkout) for block in code_blocks(PAGE)]
    text = "".join(outputs)
    # What ran is what the page promises.
    suite = [f"All/OperatorTest.{name}/{ID}_cpu" for name in re.findall(r"OperatorTest\.(\w+)/" + ID + "_cpu", text)]
    assert len(set(suite)) >= 8, text
    for test in suite:
        assert re.search(rf"(OK|SKIPPED) +\] {re.escape(test)}", text), test
    assert "[       OK ] All/ScaledValuesTest.IsLinearInTheValues/float32_cpu" in text
    assert re.search(r"\d+ passed", text), text
    assert "stream_cpu" in outputs[-1], outputs[-1]
