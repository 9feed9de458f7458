"""What is refused, how, and that nothing of it is kept."""

import asyncio
import io
import os
import re
import time
import warnings
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import uploads
from tests.spaces.studies import dicom, picture, png


def refusal(function, *arguments) -> str:
    with pytest.raises(gr.Error) as caught:
        function(*arguments)
    assert isinstance(caught.value, uploads.Refusal) and not caught.value.print_exception
    return caught.value.message


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "data, reason",
    [
        (None, "first"),
        (b"", "empty"),
        (b"just text", "not a PNG, JPEG or DICOM"),
        (b"<svg onload='alert(1)'/>", "not a PNG, JPEG or DICOM"),
        (png(0)[:-40], "cut short"),
        (bytes(128) + b"DICM" + b"\xff" * 300, "damaged|holds no picture"),
        (encoded(Image.new("1", (6000, 6000))), "pixels"),
        (encoded(Image.fromarray(np.full((64, 64), 9, np.uint8))), "same value"),
        (encoded(Image.effect_noise((64, 64), 50), "GIF"), "not a PNG, JPEG or DICOM"),
    ],
)
def test_what_is_no_radiograph_is_refused_with_a_reason(data, reason):
    assert re.search(reason, refusal(uploads.read_upload, data))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(data):
    file = bytearray(png(data.draw(st.integers(0, 3))))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert uploads.read_upload(bytes(file)).mode == "L"
    except uploads.Refusal as error:
        assert error.message.startswith("This file")


def test_messages_are_no_html():
    assert "<img" not in str(uploads.Refusal("<img src=x onerror=alert(1)>").message)


def test_texts_are_limited():
    assert uploads.checked_text("  cough ", "Indication") == "cough"
    assert uploads.checked_text(None, "Indication") == ""
    assert "at most 1000" in refusal(uploads.checked_text, "x" * 1001, "Indication")
    assert uploads.checked_prompts(" a\n\nb \na") == ["a", "b"]
    for prompts in ("", "one", "\n".join(map(str, range(21))), "a\n" + "b" * 201):
        assert "Prompt" in refusal(uploads.checked_prompts, prompts)


def body(*names: str, data: bytes = b"\x89PNG") -> bytes:
    parts = [
        b'--X\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
        % (name.encode(), data)
        for name in names
    ]
    return b"".join(parts) + b"--X--\r\n"


def through_guard(chunks: list[bytes], path: str = "/gradio_api/upload", length: int | None = None, broken=False):
    """What the app behind the guard gets to read, and the status that a refusal has."""
    read, status = bytearray(), []

    async def app(scope, receive, send):
        while True:
            message = await receive()
            read.extend(message["body"])
            if not message.get("more_body"):
                return

    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if broken:
        messages.append({"type": "http.disconnect"})
    else:
        messages[-1]["more_body"] = False
    messages = iter(messages)

    async def receive():
        return next(messages)

    async def send(message):
        status.append(message.get("status"))

    length = sum(map(len, chunks)) if length is None else length
    headers = [] if length < 0 else [(b"content-length", b"%d" % length)]
    headers.append((b"content-type", b"multipart/form-data; boundary=X"))
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(uploads.UploadGuard(app)(scope, receive, send))
    return bytes(read), status[:1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 200), max_size=4))
def test_every_upload_gets_a_name_of_its_own(cuts):
    whole = body("Jane Doe.png", data=bytes(range(256)))
    edges = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
    chunks = [whole[begin:end] for begin, end in zip(edges, edges[1:], strict=False)]
    first, second = (through_guard(list(chunks))[0] for _ in range(2))
    assert b"Jane" not in first and first != second
    assert first.split(b"\r\n\r\n", 1)[1] == whole.split(b"\r\n\r\n", 1)[1]
    assert first.count(b"filename=") == 1 and b'name="files"' in first


def test_long_requests_are_refused_unread():
    assert through_guard([b"x"], length=uploads.MAX_BYTES * 2) == (b"", [413])
    assert through_guard([b"x"], "/gradio_api/queue/join", length=10**6) == (b"", [413])
    assert through_guard([b"x"], length=-1) == (b"", [411])
    assert through_guard([b"x"], "/gradio_api/queue/join") == (b"x", [])


def test_an_upload_that_breaks_off_ends_as_a_malformed_one():
    from python_multipart.exceptions import MultipartParseError
    from python_multipart.multipart import MultipartParser

    whole = body("chest.png", data=bytes(range(256)))
    for cut in range(1, len(whole) - 6):
        read, _ = through_guard([whole[:cut]], broken=True)
        assert read.startswith(whole[:20][:cut]) and len(read) > cut
        with pytest.raises(MultipartParseError):
            MultipartParser(b"X", {}).write(read)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The upload folder of a Space, among others."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(uploads.atexit, "register", lambda *_, **__: None)
    uploads.claim_upload_folder()
    assert uploads.upload_folder().parent == tmp_path.resolve()
    return uploads.upload_folder()


def test_old_uploads_are_swept_wherever_a_space_left_them(folder, tmp_path):
    left = [folder / "a" / "whole", folder / "tmpbroken", tmp_path / "cogaze-space-killed" / "part"]
    kept = [tmp_path / "of another app", tmp_path / "gradio" / "of another app", folder / "new"]
    for path in (*left, *kept):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    for path in (*left, *kept[:2], folder / "a"):
        os.utime(path, (time.time() - 700,) * 2)
    uploads.claim_upload_folder()
    assert uploads.upload_folder() == folder, "once claimed, it stays"
    uploads.sweep_uploads()
    assert [path.exists() for path in left] == [False] * 3 and all(path.exists() for path in kept)


SECRET = "Doe^Jane"


@pytest.mark.parametrize(
    "tags, reason",
    [
        ({"Modality": SECRET}, "of another modality"),
        ({"Modality": "CT"}, "of another modality"),
        ({"NumberOfFrames": 4711}, "several frames"),
        ({"Rows": 4711, "Columns": 9999}, "has more than"),
        ({"Rows": 2}, "too small"),
        ({"BitsStored": 4711}, "damaged"),
        ({"PhotometricInterpretation": SECRET}, "damaged"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette"),
        ({"VOILUTFunction": SECRET, "WindowWidth": 9, "WindowCenter": 9}, "lookup table"),
        ({"PixelData": b"4711"}, "cannot be decoded"),
    ],
)
def test_a_refusal_echoes_no_field_of_a_dicom(tags, reason):
    said = refusal(uploads.read_upload, dicom(**tags))
    assert reason in said
    for secret in ("Doe", "Jane", "JD-", "4711", "9999", "CT", "PALETTE"):
        assert secret not in said


def test_no_warning_quotes_a_dicom():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        uploads.quiet_decoders()
        uploads.read_upload(dicom(WindowWidth=-4711, WindowCenter=1))
    assert caught == []


def test_jpeg_2000_is_pillows_to_decode():
    """pylibjpeg-openjpeg up to 2.6.0 carries an OpenJPEG with CVE-2025-54874; 2.5.4 has it no more."""
    from PIL import features
    from pydicom.pixels.decoders import JPEG2000Decoder, JPEG2000LosslessDecoder

    uploads.quiet_decoders()
    uploads.quiet_decoders()
    for decoder in (JPEG2000Decoder, JPEG2000LosslessDecoder):
        assert "pylibjpeg" not in decoder.available_plugins and "pillow" in decoder.available_plugins
    assert tuple(map(int, features.version("jpg_2000").split("."))) >= (2, 5, 4)


def test_half_a_character_is_refused():
    assert "half of a character" in refusal(uploads.checked_text, "cough \ud800", "Indication")


def test_inputs_are_of_their_components_types(folder):
    upload, text = uploads.radiograph_upload(label="radiograph"), gr.Textbox(label="history")
    choice = gr.Dropdown([("None", ""), ("PA", "PA")], label="view")
    outside, inside = folder.parent / "secret.png", folder / "sent"
    for path in (outside, inside):
        path.write_bytes(png(0))
    components = [upload, text, choice]
    extra = {"path": str(inside), "url": "http://127.0.0.1:9/x", "meta": {"_type": "x"}, "size": SECRET}
    assert uploads.checked_inputs(components, [extra, "a", "PA"]) == [
        {"path": str(inside), "meta": {"_type": "gradio.FileData"}},
        "a",
        "PA",
    ]
    assert uploads.checked_inputs(components, [None, None, None]) == [None] * 3
    wrong = [
        ([3, "", ""], "radiograph"),
        ([{"path": str(outside)}, "", ""], "radiograph"),
        ([{"path": str(folder / ".." / "secret.png")}, "", ""], "radiograph"),
        ([{"path": str(folder)}, "", ""], "radiograph"),
        ([{"path": "\0"}, "", ""], "radiograph"),
        ([{"path": ["x"]}, "", ""], "radiograph"),
        ([[extra], "", ""], "radiograph"),
        ([None, 3, ""], "history: give text"),
        ([None, {"a": SECRET}, ""], "history: give text"),
        ([None, "", SECRET], "choose one of PA"),
        ([None, "", ["PA"]], "view: give text"),
        ([None, ""], "2 values"),
        ([None, "", "", ""], "4 values"),
    ]
    for values, reason in wrong:
        said = refusal(uploads.checked_inputs, components, values)
        assert reason in said and SECRET not in said
    assert picture(0).size == (80, 64) and outside.is_file()
