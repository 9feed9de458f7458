"""What is refused, how, and that nothing of it is kept."""

import asyncio
import io
import re

import gradio as gr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import uploads
from tests.spaces.studies import png


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


def through_guard(chunks: list[bytes], path: str = "/gradio_api/upload", length: int | None = None):
    """What the app behind the guard gets to read, and the status that a refusal has."""
    read, status = bytearray(), []

    async def app(scope, receive, send):
        while True:
            message = await receive()
            read.extend(message["body"])
            if not message.get("more_body"):
                return

    messages = iter(
        {"type": "http.request", "body": chunk, "more_body": place < len(chunks) - 1}
        for place, chunk in enumerate(chunks)
    )

    async def receive():
        return next(messages)

    async def send(message):
        status.append(message.get("status"))

    length = sum(map(len, chunks)) if length is None else length
    headers = [] if length < 0 else [(b"content-length", b"%d" % length)]
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
