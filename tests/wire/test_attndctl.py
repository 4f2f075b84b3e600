"""attndctl against a real server: files in every format, tables and JSON, exit statuses."""

import json
import subprocess

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests import server
from tests.reference import REFERENCE


@pytest.fixture
def attndctl(address):
    program = server.binary().parent / "attndctl"
    assert program.is_file(), f"{program}: no such program"

    def run(*arguments, status=0):
        command = [program, f"--address={address}", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert result.returncode == status, f"{command}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result.stdout if status == 0 else result.stderr

    return run


@pytest.fixture
def qkv():
    random = np.random.default_rng(5)
    return {name: random.standard_normal((1, 9, 2, 8), dtype=np.float32) for name in "qkv"}


def expected(qkv, **attributes):
    return REFERENCE["softmax_attention"](**{name: x.astype(np.float64) for name, x in qkv.items()}, **attributes)


def test_catalogue(attndctl):
    assert attndctl("health") == "serving\n"
    assert "gated_delta_rule" in attndctl("list")
    assert {op["id"] for op in json.loads(attndctl("list", "delta", "--json"))["operators"]} == {
        "delta_rule", "gated_delta_rule",
    }
    assert "initial_state" in attndctl("describe", "gla")
    assert json.loads(attndctl("--json", "describe", "gla"))["id"] == "gla"
    assert "attndctl" in attndctl("version")


def test_npy_in_and_out(attndctl, qkv, tmp_path):
    inputs = []
    for name, array in qkv.items():
        np.save(tmp_path / f"{name}.npy", array)
        inputs += ["--input", f"{name}={tmp_path / name}.npy"]
    output = tmp_path / "o.npy"
    attndctl("eval", "softmax_attention", *inputs, "--attr", "causal=true", "--output", output, "--select", "o")
    np.testing.assert_allclose(np.load(output), expected(qkv, causal=True)["o"], rtol=1e-4, atol=1e-5)


def test_npz_in_and_out(attndctl, qkv, tmp_path):
    np.savez_compressed(tmp_path / "in.npz", **qkv)
    output = tmp_path / "out.npz"
    report = attndctl(
        "eval", "softmax_attention", "--inputs", tmp_path / "in.npz", "--attr", "return_lse=true", "--attr", "scale=0.5",
        "--output", output, "--json",
    )
    reference = expected(qkv, return_lse=True, scale=0.5)
    with np.load(output) as outputs:
        assert set(outputs) == {"o", "lse"}
        for name in outputs:
            np.testing.assert_allclose(outputs[name], reference[name], rtol=1e-4, atol=1e-5)
    statistics = json.loads(report)["outputs"]["o"]
    assert statistics["shape"] == [1, 9, 2, 8] and statistics["nan"] == 0
    assert statistics["rms"] == pytest.approx(np.sqrt(np.mean(reference["o"] ** 2)), rel=1e-4)


def test_saved_inputs_are_those_that_were_evaluated(attndctl, tmp_path):
    inputs, output = tmp_path / "in.npz", tmp_path / "out.npz"
    attndctl("eval", "softmax_attention", "--random", "--dim", "T=9", "--save-inputs", inputs, "--output", output)
    with np.load(inputs) as drawn, np.load(output) as answer:
        definition = REFERENCE["softmax_attention"](**{name: x.astype(np.float64) for name, x in drawn.items()})
        np.testing.assert_allclose(answer["o"], definition["o"], rtol=1e-4, atol=1e-5)
    assert "within the tolerance" in attndctl("compare", "softmax_attention", "--inputs", inputs)


def read_safetensors(path):
    """By hand: the format's own reader knows no bfloat16 of NumPy."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    types = {"BF16": ml_dtypes.bfloat16, "F32": np.float32}
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def test_safetensors_in_and_out(attndctl, qkv, tmp_path):
    save_file(qkv, tmp_path / "in.safetensors")
    output = tmp_path / "out.safetensors"
    attndctl("eval", "softmax_attention", "--inputs", tmp_path / "in.safetensors", "--output", output)
    np.testing.assert_allclose(read_safetensors(output)["o"], expected(qkv)["o"], rtol=1e-4, atol=1e-5)


def test_bfloat16_in_every_format(attndctl, tmp_path):
    outputs = {}
    for suffix in ("npz", "safetensors"):
        output = tmp_path / f"o.{suffix}"
        attndctl("eval", "gla", "--random", "--seed", 4, "--dtype", "bf16", "--dim", "T=20", "--output", output)
        outputs[suffix] = output
    with np.load(outputs["npz"]) as archive:
        from_npz = archive["o"].view(ml_dtypes.bfloat16)
        again = tmp_path / "again.npz"
        np.savez(again, **{name: from_npz[:, :, :1, :] for name in "qkv"})
    np.testing.assert_array_equal(from_npz, read_safetensors(outputs["safetensors"])["o"])
    # And as NumPy writes it.
    assert '"bfloat16"' in attndctl("eval", "softmax_attention", "--inputs", again, "--json")


def test_compare(attndctl):
    report = json.loads(attndctl("compare", "gla", "--random", "--dim", "T=70", "--dtype", "f16", "--json"))
    assert report["within_tolerance"] and report["bitwise_repeatable"]
    assert set(report["outputs"]) == {"o", "final_state"}
    assert "within the tolerance" in attndctl("compare", "mala")


def test_bench(attndctl):
    report = json.loads(
        attndctl("bench", "softmax_attention", "--dim", "T=8", "--seconds", 0.5, "--concurrency", 4, "--json")
    )
    assert report["calls"] > 0 and report["failed"] == 0
    latency = report["latency_us"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert "calls/s" in attndctl("bench", "gla", "--dim", "T=8", "--seconds", 0.2)


def test_mistakes_end_with_a_reason(attndctl, tmp_path):
    assert "NOT_FOUND" in attndctl("describe", "glaa", status=1)
    assert "no inputs" in attndctl("eval", "gla", status=1)
    assert "cannot be read" in attndctl("eval", "gla", "--input", f"q={tmp_path}/none.npy", status=1)
    assert "expected name=value" in attndctl("eval", "gla", "--random", "--attr", "scale", status=1)
    assert "scale" in attndctl("eval", "gla", "--random", "--attr", "scale=wide", status=1)
    assert "expected one of scale" in attndctl("eval", "gla", "--random", "--attr", "skale=1", status=1)
    assert "type" in attndctl("eval", "gla", "--random", "--dtype", "int7", status=1)
    for command in ("eval", "compare"):
        assert "ZZ: given as a size" in attndctl(command, "gla", "--random", "--dim", "ZZ=3", status=1)
    assert "nope: given as an input" in attndctl("eval", "gla", "--random", "--with", "nope", status=1)
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    assert "bad.npz" in attndctl("eval", "gla", "--inputs", tmp_path / "bad.npz", status=1)
    # Asked for wrongly, nothing was tried.
    assert "nonsense" in attndctl("nonsense", status=2)
    assert "describe" in attndctl(status=2)
    assert "op is required" in attndctl("eval", status=2)
    assert "--timeout" in attndctl("list", "--timeout=-1", status=2)
    unreachable = subprocess.run(
        [server.binary().parent / "attndctl", "--address=localhost:1", "--timeout=0.5", "health"],
        capture_output=True, text=True,
    )
    assert unreachable.returncode == 1 and "UNAVAILABLE" in unreachable.stderr
