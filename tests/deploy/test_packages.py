"""deploy/packages-run.txt is what the built programs load: no library is missing, no package is there for nothing."""

import pathlib
import re
import subprocess

from tests import server

ROOT = pathlib.Path(__file__).resolve().parents[2]
LISTED = set(re.sub(r"#.*", "", (ROOT / "deploy/packages-run.txt").read_text()).split())
BUILD = server.binary().parent.parent
BUILT = [BUILD / "bin/attnd", BUILD / "bin/attndctl", BUILD / "lib/libattnd_kernels.so"]
# Of every Debian image.
EVERYWHERE = {"libc6", "libgcc-s1", "libstdc++6"}


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def libraries():
    """{name: file} of all that the dynamic linker loads, but for the project's own."""
    found = {}
    for binary in BUILT:
        for name, path in re.findall(r"^\s*(\S+) => (.*?)(?: \(0x.*)?$", output("ldd", binary), re.MULTILINE):
            assert path.startswith("/"), f"{binary.name}: {name}: {path}"
            if not path.startswith(str(BUILD)):
                found[name] = pathlib.Path(path)
    return found


def owner(path):
    """The package that has a library, whichever side of /lib -> /usr/lib it is recorded on."""
    real = str(path.resolve())
    for spelling in (real, real.removeprefix("/usr")):
        found = subprocess.run(["dpkg-query", "--search", spelling], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.split(":")[0]
    raise AssertionError(f"{path} is of no package")


def depended_on(packages):
    """Those packages and all that they depend on."""
    known, waiting = set(), set(packages)
    while waiting:
        known |= waiting
        # By name where it is one architecture's, with ":amd64" where there are several.
        depends = output("dpkg-query", "-W", "-f", "${Depends}\n${Pre-Depends}\n", *sorted(waiting))
        waiting = {name for name in re.findall(r"(?:^|, |\| )([a-z0-9][a-z0-9.+-]+)", depends, re.MULTILINE)} - known
        installed = output("dpkg-query", "-W", "-f", "${Package}\n").split()
        waiting &= set(installed)
    return known


def test_no_library_is_missing():
    reachable = depended_on(LISTED) | EVERYWHERE
    for name, path in libraries().items():
        assert owner(path) in reachable, f"{name} of {owner(path)}: add it to deploy/packages-run.txt"


def test_no_package_is_there_for_nothing():
    """Each has a library that a program names itself, rather than through another library."""
    files = libraries()
    needed = {
        name for binary in BUILT for name in re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", binary))
    }
    owners = {owner(files[name]) for name in needed if name in files}
    assert owners - EVERYWHERE == LISTED
