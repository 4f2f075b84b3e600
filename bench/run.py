#!/usr/bin/env python3
"""Runs the benchmarks of a build, each beside something measured in the same run.

    bench/run.py [--build build] [--quick] [--save] [kernels] [pytorch] [service] [router]

kernels  operators_bench: fused CPU kernels and their composed definitions
pytorch  softmax_attention beside PyTorch's CPU attention, where PyTorch is installed
service  service_bench: evaluations and streams against a bare gRPC echo of the same bytes
router   the latency that a router in a process of its own adds to `attnd serve`

--save writes bench/results/<date>-<name>.txt with the machine and the commit.
"""

import argparse
import contextlib
import datetime
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def process(*command: str, **options):
    child = subprocess.Popen(command, **options)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(timeout=60)


@contextlib.contextmanager
def attnd(programs: pathlib.Path, *arguments: str):
    """A server on a free port; gives its address."""
    with tempfile.TemporaryDirectory() as folder:
        ports = pathlib.Path(folder) / "ports.json"
        command = [str(programs / "attnd"), *arguments, "--port=0", "--metrics-port=0", f"--port-file={ports}"]
        with process(*command, stderr=subprocess.DEVNULL) as child:
            while not ports.exists() or not ports.read_text():
                if child.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} did not start")
                time.sleep(0.05)
            numbers = json.loads(ports.read_text())
            yield f"127.0.0.1:{numbers.get('grpc_port', numbers.get('grpc'))}"


def service_bench(programs: pathlib.Path, *arguments: str) -> dict:
    done = subprocess.run([str(programs / "service_bench"), *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def row(label: str, ours: dict, bare: dict, ratio: float) -> str:
    return (
        f"{label:24} {ours['calls_per_second']:9.0f}/s  p50 {ours['p50_us']:8.0f} us  p99 {ours['p99_us']:8.0f} us"
        f"   echo {bare['calls_per_second']:9.0f}/s  p50 {bare['p50_us']:8.0f} us   ratio {ratio:.2f}"
    )


def service(programs: pathlib.Path, seconds: float) -> list[str]:
    with attnd(programs, "serve") as target:
        with process(str(programs / "service_bench"), "echo", stdout=subprocess.PIPE, text=True) as echo_server:
            echo = f"127.0.0.1:{echo_server.stdout.readline().strip()}"
            small = service_bench(programs, "small", f"--target={target}", f"--echo={echo}", f"--seconds={seconds}")
            stream = service_bench(programs, "stream", f"--target={target}", f"--echo={echo}")
    lines = [f"softmax_attention [1,16,2,16] float32, {small['request_bytes']} bytes a request, against an echo of them:"]
    for load in small["closed"]:
        lines.append(row(f"{load['concurrency']} in flight", load["evaluate"], load["echo"], load["ratio"]))
    rate = small["open"]["rate"]
    lines.append(row(f"open, {rate:.0f}/s", small["open"]["evaluate"], small["open"]["echo"], 1.0))
    calls = small["sixty_four_calls"]
    lines.append(
        f"64 calls: one after another {calls['one_after_another_us']:.0f} us, at once {calls['at_once_us']:.0f} us:"
        f" {calls['speedup']:.1f} times sooner"
    )
    lines.append(
        f"stream of {stream['tensor_bytes'] >> 20} MiB there and back: {stream['evaluate_bytes_per_second'] / 1e9:.2f} GB/s,"
        f" without the kernel's time {stream['evaluate_bytes_per_second_without_compute'] / 1e9:.2f} GB/s; bare stream"
        f" {stream['echo_bytes_per_second'] / 1e9:.2f} GB/s: ratio {stream['ratio']:.2f},"
        f" without compute {stream['ratio_without_compute']:.2f}"
    )
    return lines


def router(programs: pathlib.Path, seconds: float) -> list[str]:
    def p50(target: str, echo: str) -> float:
        report = service_bench(programs, "small", f"--target={target}", f"--echo={echo}", f"--seconds={seconds}")
        return report["closed"][0]["evaluate"]["p50_us"]

    with process(str(programs / "service_bench"), "echo", stdout=subprocess.PIPE, text=True) as echo_server:
        echo = f"127.0.0.1:{echo_server.stdout.readline().strip()}"
        with attnd(programs, "serve") as whole:
            alone = p50(whole, echo)
        with attnd(programs, "worker") as worker, attnd(programs, "router", f"--workers={worker}") as front:
            time.sleep(2)
            apart = p50(front, echo)
    return [f"p50 of one call at a time: {alone:.0f} us in one process, {apart:.0f} us through a router: {apart - alone:+.0f} us"]


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
    parts = {"kernels": kernels, "pytorch": pytorch, "service": service, "router": router}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help="of: " + ", ".join(parts))
    parser.add_argument("--build", default="build", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="a fifth of the time")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    for unknown in set(arguments.names) - set(parts):
        parser.error(f"unknown benchmark {unknown}; there are: {', '.join(parts)}")
    programs = (ROOT / arguments.build if not arguments.build.is_absolute() else arguments.build) / "bin"
    for name in arguments.names or parts:
        lines = [f"{name}: {machine()}", "", *parts[name](programs, 1 if arguments.quick else 5)]
        print("\n".join(lines), "\n", flush=True)
        if arguments.save:
            path = ROOT / "bench/results" / f"{datetime.date.today()}-{name}.txt"
            path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
