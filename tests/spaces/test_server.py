"""The Space's server, as `gradio_client` and ill-meaning people meet it."""

import io
import itertools
import re
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.spaces.studies import REPORTS, picture, png


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


def dicom(**tags) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Doe^Jane", "JD-4711", "CR"
    pixels = np.asarray(picture(0)).astype(np.uint16)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.PixelData = 15, 0, pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


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
    assert answers[0]["done"] and "modality CT" in answers[1] and "cannot be decoded" in answers[2]
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
        (("NOWHERE", "", "", "free_text"), "NOWHERE"),
        (("PA", "x" * 1001, "", "free_text"), "at most 1000"),
        (("PA", "", "", "poem"), "poem"),
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
