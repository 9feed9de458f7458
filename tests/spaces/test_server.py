"""The Space's server, as `gradio_client` and ill-meaning people meet it."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tests.spaces.studies import REPORTS, dicom, picture, png


@pytest.fixture(scope="module")
def client(server):
    return Client(server[0], verbose=False)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / f"jane-doe-{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(png(number))
    return paths


def uploads_left(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_endpoints_are_typed(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/report", "/gaze", "/zero_shot", "/similar", "/model"}
    names = [parameter["parameter_name"] for parameter in endpoints["/report"]["parameters"]]
    assert names == ["radiograph", "view_position", "indication", "history", "style"]
    types = [parameter["python_type"]["type"] for parameter in endpoints["/report"]["parameters"]]
    assert types[0] == "filepath" and types[1].startswith("Literal['', 'PA'") and types[2:4] == ["str", "str"]


def test_a_report_streams_and_comes_with_maps(client, files, report_model):
    job = client.submit(handle_file(files[3]), "PA", "", "", "free_text", api_name="/report")
    parts = list(job)
    assert len(parts) > 3
    assert all(later["report"].startswith(earlier["report"]) for earlier, later in itertools.pairwise(parts))
    answer = parts[-1]
    assert answer["done"] and "Not for clinical use" in answer["caution"] and len(answer["observations"]) == 14
    assert " ".join(sentence["text"] for sentence in answer["sentences"]) == answer["report"]
    rows, columns = report_model.processor.grid_size
    for sentence in answer["sentences"]:
        assert np.shape(sentence["map"]) == (rows, columns) and np.sum(sentence["map"]) == pytest.approx(1, abs=1e-3)


def test_defaults_are_enough(client, files):
    assert client.predict(handle_file(files[1]), api_name="/report")["report"] == REPORTS[1]


def test_the_other_endpoints(client, files, report_model):
    gaze = client.predict(handle_file(files[0]), "The heart is enlarged.", "", api_name="/gaze")
    expected = report_model.gaze(report_model.study(picture(0)), "The heart is enlarged.")
    np.testing.assert_allclose(gaze["map"], expected, atol=1e-5)
    assert gaze["box"] == pytest.approx([0.1, 0, 0.9, 1])
    rows = client.predict(handle_file(files[0]), "An effusion.\nNo effusion.", "PA", "", "", api_name="/zero_shot")
    assert [row["prompt"] for row in rows] == ["An effusion.", "No effusion."]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    with pytest.raises(AppError, match="without an index"):
        client.predict(handle_file(files[0]), "", "", "", api_name="/similar")
    assert client.predict(api_name="/model")["Caution"].startswith("Research software")


def test_people_side_by_side_get_their_own_reports(server, files):
    """Each from a client of their own, the same files at once: names and contents are alike."""

    def ask(number: int) -> tuple[int, str]:
        client = Client(server[0], verbose=False)
        answers = [client.predict(handle_file(files[(number + i) % 4]), api_name="/report") for i in range(2)]
        return number, [answer["report"] for answer in answers]

    with ThreadPoolExecutor(8) as pool:
        for number, reports in pool.map(ask, range(8)):
            assert reports == [REPORTS[number % 4], REPORTS[(number + 1) % 4]]
    assert uploads_left(server[1]) == []


def test_nothing_of_a_study_is_logged_kept_or_shown(client, server, tmp_path, capfd):
    sent = {"good.dcm": dicom(), "jd-4711.png": dicom(Modality="CT"), "odd": dicom()[:-900], "doe": b"Doe, Jane"}
    answers = []
    for name, data in sent.items():
        path = tmp_path / name
        path.write_bytes(data)
        try:
            answers.append(
                client.predict(handle_file(path), "PA", "Jane Doe fell.", "Secret.", "structured", api_name="/report")
            )
        except AppError as error:
            answers.append(str(error))
    assert answers[0]["done"] and "another modality" in answers[1] and "cannot be decoded" in answers[2]
    assert "not a PNG, JPEG or DICOM" in answers[3]
    written = "".join(capfd.readouterr())
    for secret in ("doe", "jane", "4711", "fell", "secret"):
        assert secret not in written.lower() and secret not in str(answers).lower()
    assert "Traceback" not in written
    assert uploads_left(server[1]) == []


def test_malformed_uploads_are_refused_one_and_all(client, server, tmp_path):
    whole = png(2)
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / f"{number}.png"
        path.write_bytes(whole[: rng.integers(1, len(whole) - 30)] if number % 2 else rng.bytes(200))
        with pytest.raises(AppError, match="^'?This file: "):
            client.predict(handle_file(path), api_name="/report")
    assert uploads_left(server[1]) == []


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (("NOWHERE", "", "", "free_text"), "view_position: unknown; choose one of PA"),
        (("PA", "x" * 1001, "", "free_text"), "at most 1000"),
        (("PA", "", "", "poem"), "style: unknown; choose one of free_text, structured"),
    ],
)
def test_wrong_arguments_are_refused(client, files, arguments, reason):
    with pytest.raises(AppError, match=reason):
        client.predict(handle_file(files[0]), *arguments, api_name="/report")


def test_no_address_is_fetched_and_no_other_file_read(client, server, tmp_path):
    asked = threading.Event()

    class Website(threading.Thread):
        def run(self):
            from http.server import BaseHTTPRequestHandler, HTTPServer

            class Handler(BaseHTTPRequestHandler):
                def do_GET(self):
                    asked.set()

            self.site = HTTPServer(("127.0.0.1", 0), Handler)
            started.set()
            self.site.serve_forever()

    started = threading.Event()
    website = Website(daemon=True)
    website.start()
    started.wait()
    address = f"http://127.0.0.1:{website.site.server_port}/x.png"
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(0))
    for path in (address, str(secret), "/etc/passwd"):
        payload = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, "", "", "", "free_text"]}
        event = httpx.post(f"{server[0]}gradio_api/call/report", json=payload).json()["event_id"]
        assert "event: error" in httpx.get(f"{server[0]}gradio_api/call/report/{event}").text
    website.site.shutdown()
    assert not asked.is_set() and secret.is_file()


def test_too_large_an_upload_is_refused(server):
    request = urllib.request.Request(f"{server[0]}gradio_api/upload", data=b"x", method="POST")
    request.add_unredirected_header("Content-Length", str(2**30))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 413


def test_the_page_names_no_other_host(server):
    page = httpx.get(server[0]).text
    fetched = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](https?://[^\"']+)", page)
    assert fetched == []
    assert '"analytics_enabled":false' in page.replace(" ", "").replace("False", "false")


HTTP = httpx.Client(timeout=60)  # one, for making one takes longer than most requests


def upload(address: str, data: bytes, name: str = "jane-doe.png") -> dict:
    """An upload, as an endpoint takes it."""
    path = HTTP.post(f"{address}gradio_api/upload", files={"files": (name, data)}).json()[0]
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def function_index(address: str, endpoint: str) -> int:
    dependencies = HTTP.get(f"{address}config").json()["dependencies"]
    return next(each["id"] for each in dependencies if each["api_name"] == endpoint)


def call(address: str, endpoint: str, data: list) -> dict:
    """The error of a call that must be refused."""
    # By hand, since httpx writes no lone surrogate.
    sent = {"content": json.dumps({"data": data}), "headers": {"Content-Type": "application/json"}}
    event = HTTP.post(f"{address}gradio_api/call/{endpoint}", **sent).json()["event_id"]
    kind, answer = HTTP.get(f"{address}gradio_api/call/{endpoint}/{event}").text.strip().split("\n")[-2:]
    assert kind == "event: error"
    return json.loads(answer.removeprefix("data: "))


def test_wrong_types_are_refused_in_words_and_nothing_of_them_is_logged_or_kept(server, capfd):
    address, folder = server
    secret = "<b>Secret</b>"
    values = [3, -1.5, True, [secret], {"a": secret}, {"path": f"/{secret}", "meta": {"_type": "gradio.FileData"}}]
    for endpoint, good in {
        "report": ["", "", "", "free_text"],
        "gaze": ["An effusion.", ""],
        "zero_shot": ["An effusion.\nNone.", "", "", ""],
        "similar": ["", "", ""],
    }.items():
        some = values if endpoint == "report" else values[3::2]
        for place, value in itertools.product(range(len(good) + 1), some):
            data = [upload(address, png(0)) if place else None, *good]
            data[place] = value
            said = call(address, endpoint, data)
            assert re.match(r"\w+: ", said["error"]) and "Secret" not in str(said) and "<" not in said["error"]
        assert "values were sent" in call(address, endpoint, [secret])["error"]
    assert "half of a character" in call(address, "gaze", [upload(address, png(0)), "\ud800", ""])["error"]
    written = "".join(capfd.readouterr())
    assert "Traceback" not in written and "Secret" not in written
    assert uploads_left(folder) == []


@pytest.mark.parametrize("path", ["call/{}", "call/v2/{}", "queue/join", "run/{}"])
def test_what_there_is_not_is_refused_in_words(server, capfd, path):
    body = {"data": ["Secret"], "session_hash": "s", "fn_index": 4711, "nothing": "Secret"}
    answer = httpx.post(f"{server[0]}gradio_api/{path.format('Secret')}", json=body)
    assert 400 <= answer.status_code < 500 and len(answer.json()["detail"]) > 5
    written = "".join(capfd.readouterr())
    assert "Traceback" not in written and "Secret" not in written


def test_an_example_that_there_is_not_is_refused(server):
    dependencies = httpx.get(f"{server[0]}config").json()["dependencies"]
    index = next(each["id"] for each in dependencies if not each["inputs"] and each["api_visibility"] == "private")
    for event_data in (None, "x", [1], {"index": "1"}, {"index": 99}):
        body = {"data": [], "fn_index": index, "session_hash": "examples", "event_data": event_data}
        httpx.post(f"{server[0]}gradio_api/queue/join", json=body).raise_for_status()
        stream = httpx.get(f"{server[0]}gradio_api/queue/data", params={"session_hash": "examples"}, timeout=60).text
        assert "There is no such example" in stream


def broken_off(address: str, name: str = "jane-doe.png") -> None:
    """Half of an upload."""
    place = urlsplit(address)
    head = (
        f'--X\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    ).encode()
    with socket.create_connection((place.hostname, place.port)) as link:
        link.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=X\r\n"
            b"Content-Length: 500000\r\n\r\n" + head + bytes(200_000)
        )
        time.sleep(0.1)


def test_an_upload_that_breaks_off_is_deleted(server, capfd):
    for _ in range(5):
        broken_off(server[0])
    end = time.monotonic() + 20
    while uploads_left(server[1]) and time.monotonic() < end:
        time.sleep(0.1)
    assert uploads_left(server[1]) == []
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_cancelled_job_leaves_the_sessions_others_running(server, report_model, monkeypatch):
    """Two jobs of one session at one endpoint, held until the first is cancelled."""
    write, released, running = report_model.write, threading.Event(), threading.Semaphore(0)

    def held(*arguments):
        parts = write(*arguments)
        yield next(parts)
        running.release()
        released.wait(60)
        yield from parts

    monkeypatch.setattr(report_model, "write", held)
    session = {"session_hash": "two-jobs", "fn_index": function_index(server[0], "report")}
    jobs = []
    for number in range(2):
        data = [upload(server[0], png(number)), "", "", "", "free_text"]
        answer = httpx.post(f"{server[0]}gradio_api/queue/join", json=session | {"data": data})
        jobs.append(answer.json()["event_id"])
    with ThreadPoolExecutor(1) as pool:
        # The stream must be open, or the session counts as gone.
        stream = pool.submit(
            httpx.get, f"{server[0]}gradio_api/queue/data", params={"session_hash": "two-jobs"}, timeout=120
        )
        assert all(running.acquire(timeout=60) for _ in jobs)
        release = threading.Timer(1, released.set)
        release.start()
        cancelled = httpx.post(f"{server[0]}gradio_api/cancel", json=session | {"event_id": jobs[0]}, timeout=60)
        assert cancelled.json() == {"success": True}
        messages = [json.loads(line[6:]) for line in stream.result().text.splitlines() if line.startswith("data: ")]
    ends = {each["event_id"]: each for each in messages if each["msg"] == "process_completed"}
    last = [each["output"]["data"][0] for each in messages if each.get("event_id") == jobs[1] and "output" in each]
    assert set(ends) == set(jobs) and ends[jobs[1]]["success"] and ends[jobs[0]]["output"] == {}
    assert REPORTS[1] in str(last)


@pytest.mark.slow
def test_a_space_that_is_stopped_leaves_nothing(checkpoints, tmp_path):
    """A killed one's uploads are swept by the next."""
    killed = tmp_path / "cogaze-space-killed" / "part"
    killed.parent.mkdir()
    killed.write_bytes(b"x")
    os.utime(killed, (1, 1))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    environment = {"COGAZE_MODEL": str(checkpoints["report"]), "GRADIO_SERVER_PORT": str(port)}
    app = Path(__file__).resolve().parents[2] / "spaces" / "report_generation" / "app.py"
    server = subprocess.Popen(
        [sys.executable, app], env=os.environ | environment | {"GRADIO_TEMP_DIR": str(tmp_path)}, cwd=tmp_path
    )
    try:
        address = f"http://127.0.0.1:{port}/"
        end = time.monotonic() + 300
        while time.monotonic() < end:
            try:
                upload(address, png(0))
                break
            except httpx.HTTPError:
                assert server.poll() is None
                time.sleep(0.5)
        assert uploads_left(tmp_path) != [] and not killed.exists()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert uploads_left(tmp_path) == []
