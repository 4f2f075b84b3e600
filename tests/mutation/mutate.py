"""Plants faults in the definitions of operators and sees whether a test notices: a sign, a product turned into a quotient,
a bound off by one, a switch thrown, a function left out.

    python -m tests.mutation.mutate [--op gla ...] [--faults 3] [--seed N] [--work FOLDER]

Works in a copy of the sources with a build of its own. A fault counts as noticed if the operator's tests in operators_test
fail, or its cases against NumPy do. Ends with 1 if there is an operator of which no fault was noticed; faults that went
unnoticed are printed to be read: some change nothing that anybody could see."""

import argparse
import dataclasses
import os
import pathlib
import random
import re
import secrets
import shutil
import subprocess
import sys
import tempfile

from tests import server

ROOT = server.ROOT

# What is found, and what it becomes.
FAULTS = [
    (r"(?<=[\w)\]]) \+ (?=[\w(])", " - "),
    (r"(?<=[\w)\]]) - (?=[\w(])", " + "),
    (r"(?<=[\w)\]]) \* (?=[\w(])", " / "),
    (r"(?<=[\w)\]]) / (?=[\w(])", " * "),
    (r"(?<=[\w)\]]) < (?=[\w(])", " <= "),
    (r"(?<=[\w)\]]) <= (?=[\w(])", " < "),
    (r"(?<=[\w)\]]) && (?=[\w(!])", " || "),
    (r"(?<=[\w)\]]) \|\| (?=[\w(!])", " && "),
    (r"\btrue\b", "false"),
    (r"\bfalse\b", "true"),
    (r"\b(?:Exp|Sqrt|Sigmoid|Softplus|Silu|Gelu|Softmax)\((?=[\w])", "("),
    (r'c\.real\("\w+"\)', "1.0"),
    (r"\.T\(\)", ""),
    (r"\b1\.0\b", "2.0"),
]


@dataclasses.dataclass(frozen=True)
class Fault:
    begin: int
    end: int
    text: str

    def planted(self, source: str) -> str:
        return source[: self.begin] + self.text + source[self.end :]

    def shown(self, source: str) -> str:
        line = source.count("\n", 0, self.begin) + 1
        first = source.rfind("\n", 0, self.begin) + 1
        last = source.find("\n", self.end)
        return f"line {line}: {source[first:last].strip()}  ->  {self.planted(source)[first : last + len(self.text) - (self.end - self.begin)].strip()}"


def faults_of(source: str) -> list[Fault]:
    """Every fault that could be planted in the mathematics: behind the schema, before what draws inputs and registers."""
    begin = source.index("return schema;")
    ends = [at for word in ("\nvoid Draw(", "\nvoid Register") if (at := source.find(word, begin)) >= 0]
    body = source[begin : min(ends)]
    # Comments and texts are not code.
    hidden = [m.span() for m in re.finditer(r'//[^\n]*|"[^"\n]*"', body)]
    found = []
    for pattern, text in FAULTS:
        for match in re.finditer(pattern, body):
            if any(a < match.end() and match.start() < b for a, b in hidden) and "c\\.real" not in pattern:
                continue
            found.append(Fault(begin + match.start(), begin + match.end(), text))
    return found


class Checkout:
    """A copy of the sources, built."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        if not (folder / "CMakeLists.txt").exists():
            shutil.copytree(
                ROOT, folder, dirs_exist_ok=True, ignore=lambda at, names: [n for n in names if n in (".git", ".venv") or n.startswith("build")]
            )
        self.run(["cmake", "--preset", "release", "-B", "build", "-DATTND_CUDA=OFF", "-DATTND_BENCH=OFF"], check=True)

    def run(self, command: list[str], check=False, **environment: str) -> subprocess.CompletedProcess:
        settings = {**os.environ, "CCACHE_BASEDIR": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        return subprocess.run(command, cwd=self.folder, env=settings, capture_output=True, text=True, check=check)

    def build(self) -> bool:
        return self.run(["ninja", "-C", "build", "operators_test", "attnd", "attnd_python"]).returncode == 0

    def notices(self, op: str) -> str:
        """The first test that fails, by the program that holds it; empty if none does."""
        pascal = "".join(word.capitalize() for word in op.split("_"))
        tests = self.run(["build/bin/operators_test", f"--gtest_filter=*/{op}_*:*{pascal}Test*", "--gtest_fail_fast"])
        if tests.returncode != 0:
            failed = re.search(r"\[  FAILED  \] (\S+)", tests.stdout)
            return failed.group(1).rstrip(",") if failed else "operators_test ended"
        wire = self.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/wire/test_operators_against_numpy.py", "-k", f"{op}-"],
            ATTND_BINARY=str(self.folder / "build/bin/attnd"),
            PYTHONPATH=str(self.folder / "build/python/src"),
        )
        if wire.returncode == 1:
            failed = re.search(r"FAILED \S+::(\S+)", wire.stdout)
            return failed.group(1) if failed else "NumPy"
        return ""


def examine(checkout: Checkout, op: str, count: int, draw: random.Random) -> bool:
    """Plants up to `count` faults that compile; whether one of them was noticed."""
    path = checkout.folder / f"kernels/ops/{op}/{op}.cc"
    source = path.read_text()
    candidates = faults_of(source)
    draw.shuffle(candidates)
    noticed = planted = 0
    try:
        for fault in candidates:
            if planted == count:
                break
            path.write_text(fault.planted(source))
            if not checkout.build():
                continue
            planted += 1
            by = checkout.notices(op)
            noticed += by != ""
            print(f"{op}: {'noticed by ' + by if by else 'NOT NOTICED'}: {fault.shown(source)}", flush=True)
    finally:
        path.write_text(source)
    print(f"{op}: {noticed} of {planted} noticed", flush=True)
    return noticed > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", action="append", help="only this operator")
    parser.add_argument("--faults", type=int, default=3, help="faults for each operator")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--work", type=pathlib.Path, help="folder of the copy, kept for the next time")
    arguments = parser.parse_args()
    print("seed", arguments.seed)
    ops = arguments.op or sorted(p.name for p in (ROOT / "kernels/ops").iterdir() if (p / f"{p.name}.cc").exists())
    with tempfile.TemporaryDirectory() as scratch:
        checkout = Checkout(arguments.work or pathlib.Path(scratch))
        if not checkout.build():
            print("the sources do not build as they are")
            return 2
        missed = [op for op in ops if not examine(checkout, op, arguments.faults, random.Random(f"{arguments.seed}/{op}"))]
        checkout.build()
    print("operators with a noticed fault:", len(ops) - len(missed), "of", len(ops), *missed)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
