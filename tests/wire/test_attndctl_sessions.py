"""attndctl's sessions and chat against a real server, which dies in the middle."""

import json
import subprocess
import time

import pytest
from safetensors.numpy import load_file

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
    assert "model is required" in attndctl("session", "create", status=2)
    assert "durability" in attndctl("session", "create", "gla", "--durability=forever", status=2)
    assert "subcommand is required" in attndctl("session", status=2)
    attndctl("session", "create", "gla", "--name=s")
    assert "expected_position: given 7" in attndctl("session", "append", "s", "HI", "--at=7", status=1)
    assert "expected one of the two" in attndctl("session", "append", "s", status=1)
    assert "OUT_OF_RANGE" in attndctl("session", "rewind", "s", 3, status=1)
    assert "cannot be read" in attndctl("session", "import", "/nonexistent", status=1)


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
