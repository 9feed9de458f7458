"""The Space under load, on a CPU.

    python benchmarks/space.py                                            # on a tiny, untrained report generator
    python benchmarks/space.py --checkpoint outputs/demo/cogaze-tiny-report [--classifier outputs/demo/cogaze-tiny]

Prints the cold start up to the first report and seconds per report. Then come hostile requests: malformed uploads,
wrong types, huge texts, uploads that break off. Each must be refused in words, and nothing of them may be in the log or
on the disk. Then many users ask at once, each with a radiograph of their own, and must get the report that they get
when alone, while the server's memory stays flat. Only loopback is used. Exit code 1 where anything of this fails.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
from gradio_client import Client, handle_file
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "spaces" / "report_generation"
FLAT = 0.10  # of the memory before
MARK = "Hostile-4711"  # in all that is hostile: file names, contents, texts
WRONG = (
    None,
    3,
    -1.5,
    True,
    "",
    MARK,
    [MARK],
    {MARK: MARK},
    {"path": f"/{MARK}"},
    {"path": f"http://127.0.0.1:9/{MARK}"},
)
ENDPOINTS = ("report", "gaze", "zero_shot", "similar")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", help="folder of a report generator; by default an untrained one is made")
    parser.add_argument("--classifier")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--requests", type=int, default=50, help="of each user")
    parser.add_argument("--hostile", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if not arguments.checkpoint:
            sys.path.insert(0, str(ROOT))
            from tests.spaces.studies import save_untrained

            arguments.checkpoint = str(save_untrained(folder, max_new_tokens=20)[0]["report"])
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
            server.wait(60)
        left = _uploads(folder)
        faults += [f"{len(left)} uploads were left at the end"] if left else []
        written = log.read_text()
        print(f"{'lines in the log':44}{len(written.splitlines()):8d}")
        faults += [f"the log holds {word}" for word in ("Traceback", MARK) if word in written]
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

    process = psutil.Process(server.pid)
    begin, before = time.perf_counter(), process.memory_info().rss / 2**20
    with httpx.Client(timeout=120) as http, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: _hostile(http, address, pictures[0], number), range(arguments.hostile)))
    rate = arguments.hostile / (time.perf_counter() - begin)
    print(f"{f'{arguments.hostile} hostile requests, requests/s':44}{rate:8.1f}")
    unrefused = [answer for answer in answers if not answer or MARK in answer]
    faults += [f"{len(unrefused)} were not refused in words, or with their own: {unrefused[:3]}"] if unrefused else []
    end = time.monotonic() + 20
    while (left := _uploads(folder)) and time.monotonic() < end:
        time.sleep(0.2)
    print(f"{'of their files, left on the disk':44}{len(left):8d}")
    faults += [f"{len(left)} hostile uploads were left"] if left else []
    print(f"{'memory before and after them, MB':44}{before:8.0f}{process.memory_info().rss / 2**20:8.0f}")
    return faults + _users(address, process, pictures, alone, arguments.requests)


def _users(address: str, process: psutil.Process, pictures: list[Path], alone: list[dict], requests: int) -> list[str]:
    """Faults of a load of users who ask at once."""

    def use(user: int, requests: int) -> list[tuple[float, str]]:
        """Seconds, and what was wrong, of one user's requests."""
        mine, outcomes = Client(address, verbose=False), []
        for _ in range(requests):
            begin = time.perf_counter()
            try:
                fault = "" if _ask(mine, pictures[user]) == alone[user] else "another answer than when alone"
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"
            outcomes.append((time.perf_counter() - begin, fault))
        return outcomes

    memory, faults = [], []
    # The first round fills what fills once: threads, their memory, the client's sessions.
    for name, count in (("warm-up", max(1, requests // 10)), ("load", requests)):
        begin = time.perf_counter()
        with ThreadPoolExecutor(len(pictures)) as pool:
            outcomes = [each for user in pool.map(use, range(len(pictures)), [count] * len(pictures)) for each in user]
        rate = len(outcomes) / (time.perf_counter() - begin)
        memory.append(process.memory_info().rss / 2**20)
        wrong = [fault for _, fault in outcomes if fault]
        median, late = np.percentile([seconds for seconds, _ in outcomes], (50, 95))
        text = f"{name}: {len(pictures)} users x {count}, requests/s"
        print(f"{text:44}{rate:8.2f}   {len(wrong)} wrong answers or errors")
        print(f"{f'{name}: seconds, median and 95th percentile':44}{median:8.2f}{late:8.2f}")
        faults += [f"{name}: {len(wrong)} wrong answers or errors, such as: {wrong[0]}"] if wrong else []
    print(f"{'memory before and after the load, MB':44}{memory[0]:8.0f}{memory[1]:8.0f}")
    return faults + (["memory grew"] if memory[1] > memory[0] * (1 + FLAT) else [])


def _uploads(folder: Path) -> list[Path]:
    return [path for path in (folder / "uploads").rglob("*") if path.is_file()]


def _pictures(folder: Path, count: int) -> list[Path]:
    """A picture for each user, all different: the examples, shifted."""
    sources = sorted((SPACE / "examples").glob("*.jpg"))
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = np.asarray(Image.open(sources[number % len(sources)]).convert("L"))
        Image.fromarray(np.roll(pixels, 12 * (number // len(sources)), axis=1)).save(path)
    return paths


def _hostile(http: httpx.Client, address: str, whole: Path, number: int) -> str:
    """What the Space says to a hostile request; "" where it does not refuse it."""
    rng = np.random.default_rng(number)
    kind = ("malformed", "types", "huge", "broken off")[number % 4]
    if kind == "broken off":
        return _broken_off(address, int(rng.integers(1, 300_000)))
    if kind == "malformed":
        upload = _upload(http, address, _malformed(whole.read_bytes(), rng, number // 4))
        return (
            _call(http, address, "report", [upload, "PA", MARK, MARK, "free_text"])
            if isinstance(upload, dict)
            else upload
        )
    if kind == "huge":
        text = MARK * int(rng.integers(200, 30_000))
        # A call of over 256 kB is refused unread, so that an upload for it lies there until it is swept by age.
        upload = _upload(http, address, whole.read_bytes()) if len(text) < 100_000 else None
        return _call(http, address, "zero_shot", [upload, text, "", text[: number % 2000], text])
    values = [WRONG[place] for place in rng.integers(0, len(WRONG), rng.integers(0, 7))]
    return _call(http, address, ENDPOINTS[number // 4 % len(ENDPOINTS)], values)


def _malformed(whole: bytes, rng: np.random.Generator, number: int) -> bytes:
    kinds = (
        lambda: whole[: rng.integers(1, len(whole) - 100)],
        lambda: MARK.encode() + rng.bytes(rng.integers(1, 5000)),
        lambda: bytes(128) + b"DICM" + rng.bytes(500) + MARK.encode(),
        lambda: MARK.encode(),
        lambda: b"",
    )
    return kinds[number % len(kinds)]()


def _upload(http: httpx.Client, address: str, data: bytes) -> dict | str:
    """An upload as endpoints take it, or what is said to it."""
    answer = http.post(f"{address}gradio_api/upload", files={"files": (f"{MARK}.png", data)})
    if answer.status_code != 200:
        return answer.text
    return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}


def _call(http: httpx.Client, address: str, endpoint: str, values: list) -> str:
    asked = http.post(f"{address}gradio_api/call/{endpoint}", json={"data": values})
    if asked.status_code != 200:
        return asked.text
    stream = http.get(f"{address}gradio_api/call/{endpoint}/{asked.json()['event_id']}").text
    kind, _, answer = stream.strip().rpartition("\ndata: ")
    return json.loads(answer)["error"] or "" if kind.endswith("event: error") else ""


def _broken_off(address: str, length: int) -> str:
    place = urlsplit(address)
    part = (
        f'--X\r\nContent-Disposition: form-data; name="files"; filename="{MARK}"\r\n\r\n{MARK * (length // len(MARK))}'
    )
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=X\r\n"
    with socket.create_connection((place.hostname, place.port)) as link:
        link.sendall(f"{head}Content-Length: 1000000\r\n\r\n{part}".encode())
        time.sleep(0.05)
    return "it broke off"


def _ask(client: Client, picture: Path) -> dict:
    answer = client.predict(handle_file(picture), "PA", "Cough.", "", "free_text", api_name="/report")
    return {name: answer[name] for name in ("report", "sentences", "observations")}


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
