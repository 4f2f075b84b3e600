#!/usr/bin/env python3
"""Runs the benchmarks of a build, each beside something measured in the same run.

    bench/run.py [--build build] [--quick] [--save] [kernels] [pytorch] [service] [sessions] [idle] [router]

kernels  operators_bench: fused CPU kernels and their composed definitions
pytorch  softmax_attention beside PyTorch's CPU attention, where PyTorch is installed
service  service_bench: evaluations and streams against a bare gRPC echo of the same bytes
sessions tokens per second of attnd-text-small at 1 and at 32 sessions, in a process and over gRPC, beside PyTorch on the same weights
         (--torch names a Python that has it), and what a token costs at 1,000 and at 100,000 tokens
idle     100,000 idle sessions: the server's memory, its restart, and how long some of them take to go on
router   the latency that a router in a process of its own adds to `attnd serve`, beside bare gRPC hops

Where a figure has a bound, a line says whether it was reached. --save writes bench/results/<date>-<name>.txt with the machine and the commit.
"""

import argparse
import contextlib
import datetime
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def process(*command: str, **options):
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(timeout=60)


class Address(str):
    """Of a server, and its process."""

    def __new__(cls, address: str, pid: int):
        made = super().__new__(cls, address)
        made.pid = pid
        return made


@contextlib.contextmanager
def attnd(programs: pathlib.Path, *arguments: str):
    """A server on a free port that takes calls; gives its address."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "ports.json"
        command = [str(programs / "attnd"), *arguments, "--port=0", "--metrics-port=0", f"--port-file={file}"]
        with process(*command, stderr=subprocess.DEVNULL) as child:
            while not (file.exists() and ready(json.loads(file.read_text())["metrics"])):
                if child.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} did not start")
                time.sleep(0.05)
            yield Address(f"127.0.0.1:{json.loads(file.read_text())['grpc']}", child.pid)


def ready(metrics_port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/readyz", timeout=10).status == 200
    except urllib.error.HTTPError:
        return False


@contextlib.contextmanager
def bare_echo(programs: pathlib.Path, *arguments: str):
    with process(str(programs / "service_bench"), "echo", *arguments, stdout=subprocess.PIPE, text=True) as server:
        yield f"127.0.0.1:{server.stdout.readline().strip()}"


def service_bench(programs: pathlib.Path, *arguments: str) -> dict:
    done = subprocess.run([str(programs / "service_bench"), *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def figure(what: str, value: float, unit: str, least: float | None = None, most: float | None = None) -> str:
    """A figure beside its bound."""
    reached = value >= least if least is not None else value <= most
    bound = f"at least {least:g}" if least is not None else f"at most {most:g}"
    return f"{'reached' if reached else 'NOT reached':11}  {what}: {value:.{0 if unit == ' us' else 2}f}{unit}, {bound}{unit}"


def row(label: str, load: dict) -> str:
    return (
        f"{label:24} {load['calls_per_second']:8.0f}/s  p50 {load['p50_us']:7.0f} us  p90 {load['p90_us']:7.0f} us"
        f"  p99 {load['p99_us']:7.0f} us" + (f"  {load['failures']} FAILED" if load["failures"] else "")
    )


def service(programs: pathlib.Path, seconds: float) -> list[str]:
    with attnd(programs, "serve") as target, bare_echo(programs) as echo:
        small = service_bench(programs, "small", f"--target={target}", f"--echo={echo}", f"--seconds={seconds}")
        stream = service_bench(programs, "stream", f"--target={target}", f"--echo={echo}")
    lines = [f"softmax_attention [1,16,2,16] float32, {small['request_bytes']} bytes a request, and an echo of as many:"]
    figures = []
    for load in small["closed"]:
        in_flight = f"{load['concurrency']} in flight"
        lines += [row(in_flight, load["evaluate"]), row("  bare echo", load["echo"])]
        figures.append(figure(f"calls per second, {in_flight}, of the bare echo's", load["ratio"], "", least=0.7))
    lines += [
        row(f"open, {small['open']['rate']:.0f}/s", small["open"]["evaluate"]),
        row("  bare echo", small["open"]["echo"]),
    ]
    calls = small["sixty_four_calls"]
    lines.append(f"64 calls: one after another {calls['one_after_another_us']:.0f} us, at once {calls['at_once_us']:.0f} us")
    figures.append(figure("64 calls at once, sooner than one after another", calls["speedup"], " times", least=3))
    lines.append(
        f"stream of {stream['tensor_bytes'] >> 20} MiB there and back: {stream['evaluate_bytes_per_second'] / 1e9:.2f} GB/s,"
        f" without the kernel's time {stream['evaluate_bytes_per_second_without_compute'] / 1e9:.2f} GB/s;"
        f" bare stream {stream['echo_bytes_per_second'] / 1e9:.2f} GB/s"
    )
    figures.append(figure("streamed bytes per second, of the bare stream's", stream["ratio"], "", least=0.6))
    return [*lines, "", *figures]


def router(programs: pathlib.Path, seconds: float) -> list[str]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())

        def behind_router(worker: str) -> str:
            return stack.enter_context(attnd(programs, "router", f"--workers={worker}"))

        echo_socket, worker_socket = f"{folder}/echo", f"{folder}/worker"
        echo = stack.enter_context(bare_echo(programs, f"--socket={echo_socket}"))
        worker = stack.enter_context(attnd(programs, "worker", f"--socket={worker_socket}"))
        servers = {
            "alone": stack.enter_context(attnd(programs, "serve")),
            "unix": behind_router(f"unix:{worker_socket}"),
            "tcp": behind_router(worker),
        }
        echoes = {"tcp": echo, "unix": f"unix:{echo_socket}"}
        report = service_bench(
            programs,
            "hop",
            f"--seconds={seconds}",
            *(f"--server={name}={target}" for name, target in servers.items()),
            *(f"--echo={name}={target}" for name, target in echoes.items()),
        )
    loads = report["loads"]
    alone = loads["alone"]["p50_us"]

    def added(name: str) -> float:
        return loads[name]["p50_us"] - alone

    return [
        f"softmax_attention [1,16,2,16] float32, {report['request_bytes']} bytes a request, one call at a time, rounds in turn:",
        row("attnd serve", loads["alone"]),
        row("router, worker on unix:", loads["unix"]) + f"  added {added('unix'):+.0f} us",
        row("router, worker on TCP", loads["tcp"]) + f"  added {added('tcp'):+.0f} us",
        "what one hop costs at least, as many bytes there and back in the same rounds:",
        *(
            row(f"bare gRPC, {wire}, {kind}", loads[f"{wire} {kind}"])
            for wire in ("tcp", "unix")
            for kind in ("calls", "stream")
        ),
        row("a byte through pipes", loads["pipe"]) + "  two wake-ups of a sleeping thread",
        "",
        figure("router's added latency, p50, worker on the same machine (unix:)", added("unix"), " us", most=200),
        figure("router's added latency, p50, worker on TCP loopback", added("tcp"), " us", most=200),
    ]


WEIGHTS = ROOT / "models/weights"


def session_bench(programs: pathlib.Path, *arguments: str) -> dict:
    done = subprocess.run([str(programs / "session_bench"), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def sessions(programs: pathlib.Path, seconds: float, torch: str = sys.executable) -> list[str]:
    model = "attnd-text-small"
    prompt = 64
    lines = [f"{model}, a prompt of {prompt} tokens, then the most probable ones; tokens per second of all sessions, 2 threads;"]
    figures = []
    if subprocess.run([torch, "-c", "import torch, safetensors"], capture_output=True).returncode != 0:
        return ["no PyTorch (--torch): nothing to compare with"]
    with attnd(programs, "serve", "--device=cpu", f"--models={WEIGHTS}", "--cpu-threads=2") as target:
        for count, least in ((1, 2), (32, 4)):
            tokens = int((400 if count == 1 else 128) * max(seconds / 5, 0.5))
            size = (f"--sessions={count}", f"--prompt={prompt}", f"--tokens={tokens}")

            def theirs(dtype: str) -> dict:
                command = [torch, str(ROOT / "bench/decode_pytorch.py"), str(WEIGHTS / model), "--threads=2"]
                done = subprocess.run([*command, *size, f"--dtype={dtype}"], check=True, capture_output=True, text=True)
                return json.loads(done.stdout)

            sides = {
                "runner": lambda: session_bench(programs, "decode", f"--model={WEIGHTS / model}", "--threads=2", *size),
                "service": lambda: session_bench(programs, "serve", f"--target={target}", f"--model={model}", *size),
                "float32": lambda: theirs("float32"),
                "bfloat16": lambda: theirs("bfloat16"),
            }
            # Rounds alternate, so that what else the machine does hits all.
            rounds = [{name: side() for name, side in sides.items()} for _ in range(5)]
            rate = {name: statistics.median(one[name]["tokens_per_second"] for one in rounds) for name in sides}
            same = all(rounds[0][name]["tokens"] == rounds[0]["runner"]["tokens"] for name in ("service", "float32"))
            version = rounds[0]["float32"]["torch"]
            lines.append(
                f"{count:3} sessions, {tokens} tokens each: model runner {rate['runner']:6.0f}, over gRPC {rate['service']:6.0f}; PyTorch {version}"
                f" float32 {rate['float32']:6.0f}, bfloat16 {rate['bfloat16']:6.0f}; first session's tokens {'the same' if same else 'DIFFERENT'}"
            )
            for name in ("runner", "service"):
                for dtype in ("float32", "bfloat16"):
                    what = f"{count} sessions, {name}: tokens per second, of PyTorch's {dtype}"
                    figures.append(figure(what, rate[name] / rate[dtype], " times", least=least))
    model = "attnd-recall-gated_deltanet-64"
    places = session_bench(programs, "positions", f"--model={WEIGHTS / model}")
    costs = {place["position"]: place["token_us"] for place in places}
    lines.append(f"{model}, a token at " + ", ".join(f"{at}: {us:.2f} us" for at, us in costs.items()))
    figures.append(figure("a token at 102400 tokens, of one at 1024", costs[102400] / costs[1024], " times", most=1.1))
    with tempfile.TemporaryDirectory() as folder:
        with attnd(programs, "serve", "--device=cpu", f"--models={WEIGHTS}", f"--state-dir={folder}/state") as target:
            for name in (model, "attnd-text-small"):
                for move in session_bench(programs, "moves", f"--target={target}", f"--model={name}"):
                    lines.append(
                        f"{name} at {move['position']}: a fork {move['fork_ms']:.2f} ms; a fork taken back and its next token"
                        f" p50 {move['rewind_ms']:.1f} ms, at most {move['rewind_most_ms']:.1f} ms"
                    )
    return [*lines, "", *figures]


def resident(pid: int) -> tuple[float, float]:
    """MiB of a process's memory, now and at most so far."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return tuple(int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024 for key in ("VmRSS", "VmHWM"))


def idle(programs: pathlib.Path, seconds: float) -> list[str]:
    count = 100_000 if seconds >= 5 else 2_000
    limit = 512  # MiB
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        options = ["serve", "--device=cpu", f"--models={WEIGHTS}", f"--state-dir={folder}/state", f"--max-session-bytes={limit}MiB"]
        with attnd(programs, *options) as server:
            fill = session_bench(programs, "fill", f"--target={server}", "--model=attnd-text-small", f"--count={count}")
            made = resident(server.pid)
        lines.append(f"{count} sessions made in {fill['seconds']:.0f} s; the server's memory then {made[0]:.0f} MiB, at most {made[1]:.0f} MiB")
        size = sum(file.stat().st_size for file in pathlib.Path(folder).rglob("*") if file.is_file())
        begin = time.monotonic()
        with attnd(programs, *options) as server:
            start = time.monotonic() - begin
            lines.append(f"on disk {size / 2**20:.0f} MiB; started again in {start:.2f} s")
            report = session_bench(programs, "resume", f"--target={server}", f"--count={count}", "--in-flight=1")
            memory = resident(server.pid)
        lines += [row("to the first token", report["all"])]
        lines += [row(f"  {name}", load) for name, load in report["kinds"].items()]
        lines.append(f"the server's memory then {memory[0]:.0f} MiB, at most {memory[1]:.0f} MiB; --max-session-bytes {limit} MiB")
    return [
        *lines,
        "",
        figure("an idle session's first token after a restart, p99", report["all"]["p99_us"] / 1e3, " ms", most=50),
        figure("memory, at most", max(made[1], memory[1]), " MiB", most=2 * limit),
    ]


def kernels(programs: pathlib.Path, seconds: float) -> list[str]:
    command = [str(programs / "operators_bench"), f"--benchmark_min_time={seconds / 20}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def pytorch(programs: pathlib.Path, seconds: float) -> list[str]:
    try:
        import torch
    except ImportError:
        return ["PyTorch is not installed (pip install torch): nothing to compare with"]

    def theirs(heads: int, length: int, size: int, causal: bool) -> float:
        q, k, v = (torch.randn(1, heads, length, size) for _ in range(3))
        times = []
        end = time.monotonic() + seconds / 10
        with torch.inference_mode():
            while time.monotonic() < end or len(times) < 4:
                begin = time.monotonic()
                torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
                times.append(1e3 * (time.monotonic() - begin))
        return statistics.median(times[1:])

    def ours(heads: int, length: int, size: int, causal: bool) -> float:
        name = f"softmax_attention/H{heads}xK{size}/causal={str(causal).lower()}//{length}/"
        command = [str(programs / "operators_bench"), f"--benchmark_min_time={seconds / 10}", "--benchmark_format=json"]
        out = subprocess.run([*command, f"--benchmark_filter=^{name}"], check=True, capture_output=True, text=True).stdout
        (entry,) = json.loads(out[out.index("{") :])["benchmarks"]
        return entry["real_time"]

    lines = [f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, float32, times in ms"]
    for heads, size, length in ((8, 64, 1024), (8, 64, 2048), (8, 64, 4096), (4, 128, 4096)):
        for causal in (False, True):
            # Rounds alternate, so that what else the machine does hits both.
            rounds = [(ours(heads, length, size, causal), theirs(heads, length, size, causal)) for _ in range(3)]
            mine, other = (statistics.median(side) for side in zip(*rounds))
            shape = f"[1,{length},{heads},{size}]{' causal' if causal else ''}"
            lines.append(f"{shape:24} attnd {mine:8.2f}   PyTorch {other:8.2f}   ratio {other / mine:.2f}")
    return lines


def machine() -> str:
    model = next(line for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    cores = subprocess.run(["nproc"], capture_output=True, text=True).stdout.strip()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return f"{datetime.date.today()}, {model.split(':')[1].strip()}, {cores} cores, commit {commit}"


def main() -> None:
    parts = {"kernels": kernels, "pytorch": pytorch, "service": service, "sessions": sessions, "idle": idle, "router": router}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help="of: " + ", ".join(parts))
    parser.add_argument("--build", default="build", type=pathlib.Path)
    parser.add_argument("--torch", default=sys.executable, help="a Python that has PyTorch, for sessions")
    parser.add_argument("--quick", action="store_true", help="a fifth of the time")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    for unknown in set(arguments.names) - set(parts):
        parser.error(f"unknown benchmark {unknown}; there are: {', '.join(parts)}")
    programs = (ROOT / arguments.build if not arguments.build.is_absolute() else arguments.build) / "bin"
    for name in arguments.names or parts:
        more = {"torch": arguments.torch} if name == "sessions" else {}
        lines = [f"{name}: {machine()}", "", *parts[name](programs, 1 if arguments.quick else 5, **more)]
        print("\n".join(lines), "\n", flush=True)
        if arguments.save:
            path = ROOT / "bench/results" / f"{datetime.date.today()}-{name}.txt"
            path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
