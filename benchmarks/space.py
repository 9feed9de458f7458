"""The Space under load, on a CPU, with a report generator of your own.

    python benchmarks/space.py --checkpoint outputs/demo/cogaze-tiny-report [--classifier outputs/demo/cogaze-tiny]

Prints the cold start up to the first report and seconds per report. Then many users ask at once, each with a
radiograph of their own, and must get the report that they get when alone, while the server's memory stays flat; then
malformed uploads must be refused one and all. Exit code 1 where anything of this fails.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

SPACE = Path(__file__).resolve().parents[1] / "spaces" / "report_generation"
FLAT = 0.10  # of the memory before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", default="outputs/demo/cogaze-tiny-report")
    parser.add_argument("--classifier")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--malformed", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.checkpoint == parser.get_default("model") and not Path(arguments.checkpoint).is_dir():
        print(f"no {arguments.checkpoint}: run `make demo` first, or name a report generator by --checkpoint")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        log = folder / "log"
        port = _free_port()
        environment = os.environ | {
            "COGAZE_MODEL": arguments.checkpoint,
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(folder / "uploads"),
        }
        if arguments.classifier:
            environment["COGAZE_CLASSIFIER"] = arguments.classifier
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {Path(arguments.checkpoint).name}")
        begin = time.perf_counter()
        with open(log, "w") as output:
            server = subprocess.Popen(
                [sys.executable, SPACE / "app.py"], env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            faults = _load(f"http://127.0.0.1:{port}/", server, begin, folder, arguments)
        finally:
            server.terminate()
            server.wait()
        left = [path for path in (folder / "uploads").rglob("*") if path.is_file()]
        faults += [f"{len(left)} uploads were left"] if left else []
        faults += ["the server's log holds a traceback"] if "Traceback" in log.read_text() else []
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0


def _load(address: str, server: subprocess.Popen, begin: float, folder: Path, arguments) -> list[str]:
    pictures = _pictures(folder, arguments.users)
    client = _connect(address, server)
    _ask(client, pictures[0])
    print(f"{'cold start to the first report, s':44}{time.perf_counter() - begin:8.1f}")

    begin = time.perf_counter()
    alone = [_ask(client, picture) for picture in pictures]
    print(f"{'a report, one user, s':44}{(time.perf_counter() - begin) / len(pictures):8.2f}")
    distinct = len({str(answer) for answer in alone})
    faults = [] if distinct == len(pictures) else [f"only {distinct} answers differ"]

    def use(user: int) -> tuple[int, int]:
        """Wrong answers and errors of one user."""
        mine, wrong, errors = Client(address, verbose=False), 0, 0
        for _ in range(arguments.requests // arguments.users):
            try:
                wrong += _ask(mine, pictures[user]) != alone[user]
            except Exception as error:
                print(f"user {user}: {error}")
                errors += 1
        return wrong, errors

    process = psutil.Process(server.pid)
    memory = []
    # The first round fills what fills once: threads, their memory, the client's sessions.
    for round_name in ("warm-up", "load"):
        begin = time.perf_counter()
        with ThreadPoolExecutor(arguments.users) as pool:
            outcomes = list(pool.map(use, range(arguments.users)))
        seconds = time.perf_counter() - begin
        memory.append(process.memory_info().rss / 2**20)
        wrong, errors = (sum(each) for each in zip(*outcomes, strict=True))
        text = f"{round_name}: {arguments.requests} requests of {arguments.users} users, requests/s"
        print(f"{text:44}{arguments.requests / seconds:8.2f}   {errors} errors, {wrong} wrong answers")
        faults += [f"{round_name}: {errors} errors, {wrong} wrong answers"] if wrong or errors else []
    print(f"{'memory before and after the load, MB':44}{memory[0]:8.0f}{memory[1]:8.0f}")
    faults += ["memory grew"] if memory[1] > memory[0] * (1 + FLAT) else []

    refused = sum(_is_refused(client, path) for path in _malformed(folder, pictures[0], arguments.malformed))
    print(f"{f'{arguments.malformed} malformed uploads, refused with a reason':44}{refused:8d}")
    faults += [f"{arguments.malformed - refused} were not refused"] if refused < arguments.malformed else []
    return faults


def _pictures(folder: Path, count: int) -> list[Path]:
    """A picture for each user, all different: the examples, shifted."""
    sources = sorted((SPACE / "examples").glob("*.jpg"))
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.asarray(Image.open(sources[number % len(sources)]).convert("L"))
        Image.fromarray(np.roll(pixels, 12 * (number // len(sources)), axis=1)).save(path)
    return paths


def _malformed(folder: Path, whole: Path, count: int) -> list[Path]:
    data, rng = whole.read_bytes(), np.random.default_rng(0)
    kinds = (
        lambda: data[: rng.integers(1, len(data) - 100)],
        lambda: rng.bytes(rng.integers(1, 5000)),
        lambda: bytes(128) + b"DICM" + rng.bytes(500),
        lambda: b"plain text",
        lambda: b"",
    )
    paths = [folder / f"malformed-{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(kinds[number % len(kinds)]())
    return paths


def _ask(client: Client, picture: Path) -> dict:
    answer = client.predict(handle_file(picture), "PA", "Cough.", "", "free_text", api_name="/report")
    return {name: answer[name] for name in ("report", "sentences", "observations")}


def _is_refused(client: Client, path: Path) -> bool:
    try:
        client.predict(handle_file(path), api_name="/report")
    except AppError as error:
        return "This file" in str(error)
    return False


def _connect(address: str, server: subprocess.Popen) -> Client:
    while server.poll() is None:
        try:
            return Client(address, verbose=False)
        except Exception:
            time.sleep(0.2)
    raise SystemExit("The Space did not start; run it by hand to see why.")


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
