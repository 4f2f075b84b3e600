"""What the README and the demonstration tell a stranger to type works as it is written."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from tests import server
from tests.docs.pages import ROOT, block_after

PROGRAMS = server.binary().parent
OPERATORS = ("softmax_attention", "gla", "gated_delta_rule")


def environment(**more):
    return {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", **more}


def test_ten_lines_of_python(address):
    example = block_after("README.md", "Ten lines of Python").replace("localhost:8001", address)
    assert address in example and len(example.splitlines()) <= 12
    run = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"\(1, 256, 4, 64\) \w+_(cpu|cuda) (cpu|cuda)\b.*\n", run.stdout), run.stdout


PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
SENTENCES = sorted(
    {command for page in PAGES for command in re.findall(r"`(attndctl [^`]+)`", (ROOT / page).read_text())}
)


@pytest.mark.parametrize("command", SENTENCES)
def test_commands_in_sentences(address, command):
    command = command.replace("<id>", "gla")
    run = subprocess.run(
        command.split(), env=environment(ATTND_SERVER=address), capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_links_lead_somewhere():
    for page in PAGES:
        prose = re.sub(r"^    .*$", "", (ROOT / page).read_text(), flags=re.MULTILINE)
        for link in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


@pytest.fixture
def demonstration():
    port, metrics_port = server.free_ports(2)
    return environment(
        ATTND_BIN=str(PROGRAMS), ATTND_PORT=str(port), ATTND_METRICS_PORT=str(metrics_port), ATTND_SERVER="nowhere:1"
    )


def test_the_demonstration(demonstration):
    run = subprocess.Popen([ROOT / "deploy/demo.sh"], env=demonstration, stdout=subprocess.PIPE, text=True)
    try:
        printed = ""
        for line in run.stdout:
            printed += line
            if "Ctrl-C" in line:
                break
        assert run.poll() is None, printed
        # Of each operator: what it answered, the kernel that ran, its error, and that it is small enough.
        kernels = re.findall(r"^kernel (\w+) on ", printed, re.MULTILINE)
        compared = re.findall(r"^(\w+): (\w+) on .* against .*float64", printed, re.MULTILINE)
        assert compared == list(zip(OPERATORS, kernels)), printed
        assert len(re.findall(r"^o +float32 +\[1,512,", printed, re.MULTILINE)) == len(OPERATORS), printed
        assert len(re.findall(r"^within the tolerance", printed, re.MULTILINE)) == len(OPERATORS), printed
        # A session outlived its server.
        assert "[killed here]" in printed and "wrote the same" in printed, printed
        # What it says to try next, while it serves.
        commands = re.findall(r"^  (\S*attndctl .*?) +#", printed, re.MULTILINE)
        assert len(commands) >= 4
        for command in commands:
            tried = subprocess.run(command.split(), env=demonstration, capture_output=True, text=True, timeout=120)
            assert tried.returncode == 0, f"{command}: {tried.stdout}{tried.stderr}"
    finally:
        # As Ctrl-C, which a shell in the background would not hear.
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == 130


def test_the_demonstration_ends_by_itself_when_asked(demonstration):
    run = subprocess.run([ROOT / "deploy/demo.sh"], env=demonstration | {"ATTND_ONCE": "1"}, timeout=300)
    assert run.returncode == 0


def test_the_demonstration_does_not_talk_to_somebody_elses_server(demonstration, address):
    taken = demonstration | {"ATTND_PORT": address.split(":")[1], "ATTND_ONCE": "1"}
    run = subprocess.run([ROOT / "deploy/demo.sh"], env=taken, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert "the server did not start" in run.stderr and "Serving on" not in run.stdout


def test_the_script_knows_its_commands():
    """Every command of the usage text is one, and the README's two are among them."""
    usage = subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout
    commands = set(re.findall(r"^\./dev (\w+)", usage, re.MULTILINE))
    assert {"run", "test"} <= commands
    script = pathlib.Path(ROOT / "dev").read_text()
    for command in commands:
        assert f"\ncmd_{command}()" in script, command
