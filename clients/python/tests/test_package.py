"""The package as a package: types, wheel, examples."""

import pathlib
import subprocess
import sys

import attnd

PACKAGE = pathlib.Path(attnd.__file__).parents[2]
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def test_types_hold():
    command = [sys.executable, "-m", "mypy", "--config-file", PACKAGE / "pyproject.toml", "--no-incremental"]
    result = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_wheel_runs_by_itself(tmp_path):
    wheels = list((PACKAGE / "dist").glob("attnd-*.whl"))
    assert len(wheels) == 1
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path]
    subprocess.run([*command, wheels[0]], check=True)
    code = "import attnd, attnd.v1.operators_pb2; print(attnd.__file__, attnd.Client.gla.__doc__)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert str(tmp_path) in result.stdout and "final_state" in result.stdout
    assert (tmp_path / "attnd/py.typed").exists()


def test_examples_run(address):
    # recall.py needs models: tests/wire/test_weights.py uses it.
    examples = sorted(set(EXAMPLES.glob("*.py")) - {EXAMPLES / "recall.py"})
    assert examples
    for example in examples:
        result = subprocess.run([sys.executable, example, address], capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, f"{example.name}: {result.stderr}"
        assert "_cpu" in result.stdout or "_cuda" in result.stdout or "composed" in result.stdout
