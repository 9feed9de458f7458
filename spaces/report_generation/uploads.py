"""What people send: limits, refusals that say what to do, and nothing kept."""

import html
import logging
import os
import re
import secrets
import tempfile
import warnings
from pathlib import Path

import gradio as gr
from gradio.data_classes import FileData
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from processing.radiographs import read_radiograph

MAX_BYTES = 64 * 2**20  # an uncompressed 16-bit radiograph of the largest detectors has 37 MB
MAX_PIXELS = 24_000_000
MAX_CONTEXT = 1000
MAX_PROMPT = 200
MAX_PROMPTS = 20
_MAX_REQUEST = 256 * 2**10
_MAX_ENVELOPE = 16 * 2**10
_FILE_NAME = re.compile(rb'filename\*?="?[^"\r\n]*"?', re.I)


class Refusal(gr.Error):
    """A message for the person, shown as text; nothing of it goes to the log."""

    def __init__(self, message: str):
        # Gradio shows messages as HTML.
        super().__init__(html.escape(message, quote=False), duration=12, title="Not possible", print_exception=False)


def radiograph_upload(**options) -> gr.File:
    """A `gr.File` for a file of any name, handed on as bytes; the upload is deleted as soon as it is read."""
    upload = gr.File(type="binary", **options)
    fetch = upload.async_move_resource_to_block_cache

    async def local(path):
        if path is not None and "://" in str(path):
            raise Refusal("An address is not fetched; send the file itself.")
        return await fetch(path)

    # No subclass: Gradio would write a .pyi file beside it.
    upload.async_move_resource_to_block_cache = local
    upload.preprocess = _read_and_delete
    return upload


def _read_and_delete(payload: FileData | None) -> bytes | None:
    if payload is None:
        return None
    path = Path(payload.path)
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError:
        raise Refusal("The upload is no longer there; send it again.") from None
    finally:
        if path.resolve().is_relative_to(upload_folder()):
            path.unlink(missing_ok=True)


def upload_folder() -> Path:
    """Where Gradio puts uploads."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()


class UploadGuard:
    """Refuses requests that are too long before they are read, and gives each upload a name of its own.

    Gradio files an upload under its content and name: two people who send the same file would share one, and it could
    not be deleted once it is read.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        is_upload = scope["path"].rstrip("/").endswith("/upload")
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return await PlainTextResponse("Say the length.", 411)(scope, receive, send)
        if int(length) > (MAX_BYTES + _MAX_ENVELOPE if is_upload else _MAX_REQUEST):
            message = f"The file has more than {MAX_BYTES >> 20} MB." if is_upload else "The request is too long."
            return await PlainTextResponse(message, 413)(scope, receive, send)
        await self.app(scope, _renamed(receive) if is_upload else receive, send)


def _renamed(receive: Receive) -> Receive:
    """The body with a name of its own in place of the first file's."""
    begun = False

    async def renamed() -> Message:
        nonlocal begun
        message = await receive()
        if begun or message["type"] != "http.request":
            return message
        begun = True
        while b"\r\n\r\n" not in message["body"] and len(message["body"]) < _MAX_ENVELOPE and message.get("more_body"):
            more = await receive()
            if more["type"] != "http.request":
                return more
            message = more | {"body": message["body"] + more.get("body", b"")}
        head, blank, rest = message["body"].partition(b"\r\n\r\n")
        name = b'filename="%s"' % secrets.token_hex(16).encode()
        return message | {"body": _FILE_NAME.sub(name, head) + blank + rest}

    return renamed


def quiet_decoders() -> None:
    """Decoders' warnings quote what is in a file; they are left out of the log."""
    warnings.filterwarnings("ignore", module=r"(pydicom|PIL|processing)\b")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


def read_upload(data: bytes | None):
    """The picture in an upload, told by its content.

    Raises:
        Refusal: none was sent, or it is no radiograph.
    """
    if data is None:
        raise Refusal("Send a radiograph first: PNG, JPEG or DICOM.")
    try:
        return read_radiograph(data, "This file", max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES)
    except ValueError as error:
        raise Refusal(str(error)) from None
    except Exception:
        # What a decoder trips over in a damaged file.
        raise Refusal("This file: it is damaged; fetch it again.") from None


def checked_text(text: str | None, name: str, limit: int = MAX_CONTEXT) -> str:
    """
    Raises:
        Refusal: the text is too long.
    """
    text = (text or "").strip()
    if len(text) > limit:
        raise Refusal(f"{name}: {len(text)} characters; at most {limit}.")
    return text


def checked_prompts(text: str | None) -> list[str]:
    """Prompts, one a line.

    Raises:
        Refusal: fewer than two, too many, or one is too long.
    """
    lines = [line.strip() for line in (text or "").splitlines()]
    prompts = list(dict.fromkeys(line for line in lines if line))
    if not 2 <= len(prompts) <= MAX_PROMPTS:
        raise Refusal(f"Prompts: {len(prompts)}; give 2 to {MAX_PROMPTS} different ones, one a line.")
    return [checked_text(prompt, f"Prompt {number}", MAX_PROMPT) for number, prompt in enumerate(prompts, 1)]
