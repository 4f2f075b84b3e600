"""attndctl's sessions and chat against a real server, which dies in the middle."""

import json
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import server
from tests.wire.session_server import attnd  # noqa: F401


@pytest.fixture
def attndctl(attnd):
    program = server.binary().parent / "attndctl"
    assert program.is_file(), f"{program}: no such program"

    def run(*arguments, status=0, text=None):
        command = [program, f"--address={attnd.address}", *map(str, arguments)]
        result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
        assert result.returncode == status, f"{command}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result.stdout if status == 0 else result.stderr

    return run


def test_a_session_from_its_beginning_to_its_end(attndctl, tmp_path):
    made = json.loads(attndctl("session", "create", "gla", "--name", "s", "--seed", 4, "--json"))
    assert (made["session"], made["model"], made["seed"], made["position"]) == ("s", "gla", "4", "0")
    assert "the session stands at 5" in attndctl("session", "append", "s", "HELLO")
    appended = json.loads(attndctl("session", "append", "s", "--tokens=1,2,3", "--at=5", "--json"))
    assert appended["position"] == "8"
    assert attndctl("session", "append", "s", "-", text="!!").startswith("2 tokens")
    decode = ("--max-tokens=30", "--temperature=1", "--ignore-eos")
    fork = json.loads(attndctl("session", "fork", "s", "--name=t", "--json"))
    assert (fork["parent"], fork["forked_at"]) == ("s", "10")
    decoded = json.loads(attndctl("session", "decode", "s", *decode, "--json"))
    assert (len(decoded["tokens"]), decoded["finish"], decoded["position"]) == (30, "LENGTH", 40)
    # Read as text, whose ends of lines are all alike.
    printed = decoded["text"].replace("\r\n", "\n").replace("\r", "\n") + "\n"
    assert attndctl("session", "decode", "t", *decode) == printed

    file = tmp_path / "s.safetensors"
    assert str(file) in attndctl("session", "export", "s", file)
    assert load_file(file)["tokens"].tolist()[10:] == decoded["tokens"]
    imported = json.loads(attndctl("session", "import", file, "--name=u", "--json"))
    assert imported["position"] == "40"
    same = [json.loads(attndctl("session", "decode", name, *decode, "--json"))["tokens"] for name in "su"]
    assert same[0] == same[1]

    table = attndctl("session", "list")
    assert table.splitlines()[0].split()[:3] == ["SESSION", "MODEL", "POSITION"]
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["s", "t", "u"]
    assert [one["session"] for one in json.loads(attndctl("session", "list", "u", "--json"))["sessions"]] == ["u"]
    assert "position  " in attndctl("session", "rewind", "s", 10)
    assert json.loads(attndctl("session", "get", "s", "--json"))["position"] == "10"
    attndctl("session", "delete", "s")
    assert "NOT_FOUND" in attndctl("session", "get", "s", status=1)


def test_mistakes_end_with_a_reason(attndctl):
    assert "known are" in attndctl("session", "create", "nope", status=1)
    assert "a model, or --op with an operator, is required" in attndctl("session", "create", status=2)
    assert "a model, or --op" in attndctl("session", "create", "gla", "--op=gla", status=2)
    assert "has no such attribute, expected one of scale" in attndctl("session", "create", "--op=gla", "--attr=heat=1", status=1)
    assert "durability" in attndctl("session", "create", "gla", "--durability=forever", status=2)
    assert "subcommand is required" in attndctl("session", status=2)
    attndctl("session", "create", "gla", "--name=s")
    assert "expected_position: given 7" in attndctl("session", "append", "s", "HI", "--at=7", status=1)
    assert "expected one of the two" in attndctl("session", "append", "s", status=1)
    assert "OUT_OF_RANGE" in attndctl("session", "rewind", "s", 3, status=1)
    assert "cannot be read" in attndctl("session", "import", "/nonexistent", status=1)


def test_an_operators_session_is_fed_files(attndctl, tmp_path):
    made = json.loads(attndctl("session", "create", "--op=gla", "--attr=scale=0.5", "--name=o", "--json"))
    assert (made["op"], made["attributes"]["scale"]["float_value"]) == ("gla", 0.5)
    draw = np.random.default_rng(3)
    got, states = [], {}
    for i, length in enumerate((5, 3)):
        arrays = {name: draw.standard_normal((1, length, 2, 8), dtype=np.float32) for name in "qkv"}
        arrays["g"] = -np.abs(draw.standard_normal((1, length, 2, 8), dtype=np.float32)) / 10
        path, out, one = tmp_path / f"in{i}.npz", tmp_path / f"out{i}.safetensors", tmp_path / f"one{i}.npz"
        np.savez(path, **arrays)
        if i == 0:
            said = attndctl("session", "append", "o", "--inputs", path, "--output", out, "--at=0")
            assert "o " in said and "the session stands at 5" in said
            assert attndctl("session", "snapshot", "o", "here").splitlines()[1].split()[:2] == ["here", "5"]
        else:
            said = json.loads(attndctl("session", "append", "o", "--inputs", path, "--output", out, "--select=o", "--json"))
            assert (said["position"], list(said["outputs"]), said["repeated"]) == (8, ["o"], False)
        got.append(load_file(out)["o"])
        # The same by calls that hand the state on.
        whole = tmp_path / f"whole{i}.safetensors"
        save_file({**arrays, **states}, whole)
        attndctl("eval", "gla", "--inputs", whole, "--attr=scale=0.5", "--output", one)
        result = np.load(one)
        np.testing.assert_array_equal(got[-1], result["o"])
        states = {"initial_state": result["final_state"]}
    attndctl("session", "snapshot", "o", "start", "--position=0")
    listed = json.loads(attndctl("session", "snapshots", "o", "--json"))["snapshots"]
    assert [(one["snapshot"], one["position"]) for one in listed] == [("here", "5"), ("start", "0")]
    assert json.loads(attndctl("session", "restore", "o", "here", "--at=8", "--json"))["position"] == "5"
    again = tmp_path / "again.npz"
    attndctl("session", "append", "o", "--inputs", path, "--output", again)
    np.testing.assert_array_equal(np.load(again)["o"], got[1])
    attndctl("session", "delete-snapshot", "o", "here")
    assert "no such snapshot" in attndctl("session", "restore", "o", "here", status=1)
    assert "/nonexistent.npz: No such file" in attndctl("session", "append", "o", "--inputs=/nonexistent.npz", status=1)
    np.save(tmp_path / "q.npy", got[0])
    assert "gla: k" in attndctl("session", "append", "o", f"--input=q={tmp_path / 'q.npy'}", status=1)


def test_models_are_listed_loaded_asked_and_unloaded(attndctl):
    row = {line.split()[0]: line.split() for line in attndctl("model", "list").splitlines()[1:]}
    assert row["gla"][1:3] == ["no", "cpu"]
    loaded = json.loads(attndctl("model", "load", "gla", "--json"))
    assert (loaded["loaded"], loaded["device"]) == (True, "cpu")
    row = {line.split()[0]: line.split() for line in attndctl("model", "list").splitlines()[1:]}
    assert row["gla"][2:4] == ["yes", "cpu"]
    options = ("--max-tokens=20", "--temperature=1", "--ignore-eos", "--seed=4")
    made = json.loads(attndctl("model", "generate", "gla", "HELLO", *options, "--json"))
    assert (len(made["tokens"]), made["finish"]) == (20, "LENGTH")
    tokens = ",".join(map(str, b"HELLO"))
    assert json.loads(attndctl("model", "generate", "gla", f"--tokens={tokens}", *options, "--json")) == made
    assert attndctl("model", "generate", "gla", "-", *options, text="HELLO") == (
        made["text"].replace("\r\n", "\n").replace("\r", "\n") + "\n"
    )
    scored = json.loads(attndctl("model", "score", "gla", "LLO", "--context=HE", "--top=2", "--json"))
    assert [token["token"] for token in scored["tokens"]] == list(b"LLO") and scored["scored"] == "3"
    assert all(len(token["top"]) == 2 and token["logprob"] < 0 for token in scored["tokens"])
    total = sum(token["logprob"] for token in scored["tokens"])
    assert scored["total_logprob"] == pytest.approx(total, rel=1e-5)
    assert "perplexity" in attndctl("model", "score", "gla", "LLO")
    attndctl("model", "unload", "gla")
    row = {line.split()[0]: line.split() for line in attndctl("model", "list").splitlines()[1:]}
    assert row["gla"][1:3] == ["no", "cpu"]
    assert "known are" in attndctl("model", "load", "nope", status=1)


CHAT = ("--max-tokens=40", "--temperature=1", "--ignore-eos")


def test_chat_goes_on_with_what_was_said(attndctl, tmp_path):
    lines = attndctl("chat", "gla", "--json", *CHAT, text="HELLO\n/back\nHELLO\nAGAIN\n").splitlines()
    turns = [json.loads(line) for line in lines]
    assert [turn["position"] for turn in turns] == [46, 46, 92]
    assert turns[0]["text"] == turns[1]["text"]
    assert "NOT_FOUND" in attndctl("session", "get", turns[0]["session"], status=1)
    # Under a name it stays, and another chat goes on with it.
    saved = tmp_path / "chat.safetensors"
    first = json.loads(attndctl("chat", "gla", "--session=c", "--json", *CHAT, text=f"HELLO\n/save {saved}\n"))
    assert first["text"] == turns[0]["text"]
    assert load_file(saved)["tokens"].size == 46
    second = json.loads(attndctl("chat", "gla", "--session=c", "--json", *CHAT, text="AGAIN\n"))
    assert (second["text"], second["position"]) == (turns[2]["text"], 92)
    assert "the session has gla" in attndctl("chat", "kda", "--session=c", status=1, text="")
    assert "expected /back" in attndctl("chat", "gla", status=1, text="/nonsense\n")


def test_chat_streams_through_the_death_of_its_server(attnd, attndctl):
    options = ("--max-tokens=3000", "--temperature=1", "--ignore-eos", "--json")
    expected = json.loads(attndctl("chat", "gated_deltanet", "--seed=6", *options, text="HELLO\n"))
    program = server.binary().parent / "attndctl"
    for _ in range(3):
        chat = subprocess.Popen(
            [program, f"--address={attnd.address}", "chat", "gated_deltanet", "--seed=6", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        killer = attnd.kill_and_start(0.15)
        begin = time.monotonic()
        out, _ = chat.communicate("HELLO\n", timeout=120)
        killer.join()
        assert chat.returncode == 0
        got = json.loads(out)
        assert (got["text"], got["position"]) == (expected["text"], expected["position"])
        print(f"took {time.monotonic() - begin:.2f} s")
