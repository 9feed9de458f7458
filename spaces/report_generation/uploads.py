"""What people send: limits, refusals that say what to do, and nothing kept."""

import asyncio
import atexit
import html
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import gradio as gr
from gradio.data_classes import FileData
from pydicom.pixels.decoders import JPEG2000Decoder, JPEG2000LosslessDecoder
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from processing.radiographs import read_radiograph

MAX_BYTES = 64 * 2**20  # an uncompressed 16-bit radiograph of the largest detectors has 37 MB
MAX_PIXELS = 24_000_000
MAX_CONTEXT = 1000
MAX_PROMPT = 200
MAX_PROMPTS = 20
_MAX_REQUEST = 256 * 2**10
_MAX_ENVELOPE = 16 * 2**10
# How often uploads are swept, and from what age on, in seconds: those that nobody has asked about, or broke off.
SWEEP = (60, 600)
_FOLDER = "cogaze-space-"
_LOG = logging.getLogger("cogaze.space")
_BOUNDARY = re.compile(rb'boundary="?([^";,]+)', re.I)
# What is said of a DICOM: words of ours alone, for its header may hold anything in any field.
_DICOM_FAULTS = {
    "modality": "a DICOM of another modality than radiography is no radiograph; leave it out.",
    "frames": "the DICOM holds several frames; give one radiograph at a time.",
    "no picture": "the DICOM holds no picture; leave it out.",
    "lacks": "the DICOM lacks a field without which its pixels have no meaning; fetch it again.",
    "deflated": "deflated DICOM is not read; store it in another transfer syntax.",
    "palette": "a DICOM in palette colours is no radiograph; export it as a grey picture.",
    "too small": "the picture is too small for a radiograph.",
    "more than": f"the picture has more than {MAX_PIXELS} pixels; reduce it first.",
    "same value": "every pixel has the same value, so there is no radiograph in it; leave it out.",
    "colour": "it looks like a colour picture; give the radiograph itself, in grey.",
    "cannot be decoded": "its pixels cannot be decoded; fetch it again, or store it uncompressed.",
    "lookup table": "its rescale, window or lookup table is damaged; mend or remove it.",
}
_FILE_NAME = re.compile(rb'filename\*?="?[^"\r\n]*"?', re.I)


class Refusal(gr.Error):
    """A message for the person, shown as text; nothing of it goes to the log."""

    def __init__(self, message: str):
        # Gradio shows messages as HTML.
        super().__init__(html.escape(message, quote=False), duration=12, title="Not possible", print_exception=False)


def radiograph_upload(**options) -> gr.File:
    """A `gr.File` for a file of any name, handed on as bytes; the upload is deleted as soon as it is read."""
    upload = gr.File(type="binary", **options)
    # No subclass: Gradio would write a .pyi file beside it.
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
        path.unlink(missing_ok=True)


def upload_folder() -> Path:
    """Where Gradio puts uploads."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()


def claim_upload_folder() -> None:
    """Have Gradio put uploads into a folder of this process's own, which goes with it; before any component is made.

    In a folder shared with other apps nothing could be swept, for a file may be theirs.
    """
    if upload_folder().name.startswith(_FOLDER):
        return
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    folder = os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix=_FOLDER, dir=parent)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def sweep_uploads(age: float = SWEEP[1]) -> None:
    """Delete what has lain in the upload folder for `age` seconds, and in those of Spaces that were killed."""
    for folder in upload_folder().parent.glob(f"{_FOLDER}*"):
        if folder.is_symlink():
            continue
        for path in sorted(folder.rglob("*"), reverse=True):  # files before the folders that hold them
            try:
                if time.time() - path.lstat().st_mtime > age:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            except OSError:  # it is gone by now, or not empty
                continue


@asynccontextmanager
async def sweeping(_app) -> AsyncIterator[None]:
    """Sweep uploads from the server's start on; for `lifespan`."""

    async def sweep() -> None:
        while True:
            await asyncio.to_thread(sweep_uploads)
            await asyncio.sleep(SWEEP[0])

    task = asyncio.create_task(sweep())
    try:
        yield
    finally:
        task.cancel()


def refuse_in_words(app: gr.Blocks) -> None:
    """Check what is sent before Gradio does, and let no error out but a `Refusal`.

    Gradio answers an unforeseen value with {"error": null} and prints it.
    """
    process = app.process_api

    async def checked(block_fn, inputs: list, iterator=None, **options):
        try:
            # A generator that goes on is not given its inputs again.
            given = checked_inputs(block_fn.inputs, inputs) if iterator is None else inputs
            return await process(block_fn=block_fn, inputs=given, iterator=iterator, **options)
        except Exception as error:
            for value in inputs:
                if (path := _uploaded(value)) is not None:
                    path.unlink(missing_ok=True)
            if isinstance(error, Refusal):
                raise
            _note(error)
            raise Refusal("This could not be done, by no fault of yours; the log says where.") from None

    app.process_api = checked


def checked_inputs(components: Sequence[gr.blocks.Block], values: list) -> list:
    """What was sent for an event's components, each of the type that it takes.

    Raises:
        Refusal: too few or too many, a wrong type, an unknown choice, a file that was not uploaded.
    """
    if len(values) != len(components):
        raise Refusal(f"{len(values)} values were sent; {len(components)} are needed.")
    return [_checked_input(component, value) for component, value in zip(components, values, strict=True)]


def _checked_input(component: gr.blocks.Block, value):
    if value is None or isinstance(component, gr.State):  # a session's state is the server's
        return None
    name = component.label
    if isinstance(component, gr.File):
        path = _uploaded(value)
        if path is None:
            raise Refusal(f"{name}: no upload, or no longer there. Send the file itself; no address or path is opened.")
        return {"path": str(path), "meta": {"_type": "gradio.FileData"}}
    if not isinstance(value, str):
        raise Refusal(f"{name}: give text.")
    if isinstance(component, gr.Dropdown | gr.Radio):
        known = [choice for _, choice in component.choices]
        if value not in known:
            raise Refusal(f"{name}: unknown; choose one of {', '.join(filter(None, known))}.")
    return value


def _uploaded(value) -> Path | None:
    """The file that a value names, if it is one that was uploaded."""
    path = value.get("path") if isinstance(value, dict) else None
    try:
        path = Path(path).resolve()
        return path if path.is_relative_to(upload_folder()) and path.is_file() else None
    except (OSError, TypeError, ValueError):
        return None


def _note(error: Exception) -> None:
    """Log what failed where; messages may quote what was sent, and are left out."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "an unknown place"
    _LOG.error("%s in %s", type(error).__name__, place)


class UploadGuard:
    """What Gradio's server does not do by itself.

    Requests that are too long are refused before they are read. Each upload gets a name of its own: Gradio files it
    under its content and name, so two people who send the same file would share one, and it could not be deleted once
    it is read. An upload that breaks off is deleted. A request to cancel a job cancels that one, not all that its
    session has at the endpoint. What Gradio trips over is refused in words, and no traceback quotes it.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._answer(scope, receive, watched)
        except Exception as error:
            _note(error)
            if not begun:
                words = {"detail": "There is no such endpoint, or it takes other values; see the API's description."}
                await JSONResponse(words, 400)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            return await self.app(scope, receive, send)
        is_upload = scope["path"].rstrip("/").endswith("/upload")
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return await PlainTextResponse("Say the length.", 411)(scope, receive, send)
        if int(length) > (MAX_BYTES + _MAX_ENVELOPE if is_upload else _MAX_REQUEST):
            message = f"The file has more than {MAX_BYTES >> 20} MB." if is_upload else "The request is too long."
            return await PlainTextResponse(message, 413)(scope, receive, send)
        if is_upload:
            receive = _renamed(_ended(receive, headers.get(b"content-type", b"")))
        elif scope["path"].rstrip("/").endswith("/cancel"):
            receive = await _cancelled(receive)
        await self.app(scope, receive, send)


def _ended(receive: Receive, content_type: bytes) -> Receive:
    """The body; one that breaks off ends in a part that is malformed.

    Gradio deletes the files of a malformed upload, and would leave those of one that breaks off.
    """
    boundary = _BOUNDARY.search(content_type)
    over = boundary is None  # then Gradio refuses it unread

    async def ended() -> Message:
        nonlocal over
        message = await receive()
        if message["type"] == "http.disconnect" and not over:
            # Twice: the first may but end a header that was cut.
            message = {"type": "http.request", "body": b"\r\n--%s\r\n\0" % boundary[1] * 2}
        over = over or not message.get("more_body")
        return message

    return ended


async def _cancelled(receive: Receive) -> Receive:
    """Cancels the one job that the body names, and gives Gradio a body that lets it cancel no other."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    try:
        asked = json.loads(body)
        name = f"{asked['session_hash']}_{asked['fn_index']}<gradio-sep>{asked['event_id']}"
    except (ValueError, TypeError, KeyError):
        pass  # Gradio says what is wrong
    else:
        tasks = [task for task in asyncio.all_tasks() if task.get_name() == name]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        body = json.dumps(asked | {"fn_index": -1}).encode()
    rest = iter([{"type": "http.request", "body": body}])

    async def rewritten() -> Message:
        return next(rest, None) or await receive()

    return rewritten


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
    """Decoders' warnings quote what is in a file; they are left out of the log.

    JPEG 2000 is Pillow's to decode: pylibjpeg-openjpeg carries an OpenJPEG with known holes (CVE-2025-54874).
    """
    warnings.filterwarnings("ignore", module=r"(pydicom|PIL|processing)\b")
    warnings.filterwarnings("ignore", message="This file")
    for name in ("pydicom", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for decoder in (JPEG2000Decoder, JPEG2000LosslessDecoder):
        if "pylibjpeg" in decoder.available_plugins:
            decoder.remove_plugin("pylibjpeg")


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
        raise Refusal(_dicom_fault(str(error)) if data[128:132] == b"DICM" else str(error)) from None
    except Exception:
        # What a decoder trips over in a damaged file.
        raise Refusal("This file: it is damaged; fetch it again.") from None


def _dicom_fault(message: str) -> str:
    said = next((words for hint, words in _DICOM_FAULTS.items() if hint in message), None)
    return f"This file: {said or 'the DICOM is damaged or cut short; fetch the file again.'}"


def checked_text(text: str | None, name: str, limit: int = MAX_CONTEXT) -> str:
    """
    Raises:
        Refusal: the text is too long, or holds half of a character.
    """
    text = (text or "").strip()
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Refusal(f"{name}: it holds half of a character (a lone surrogate); write it anew.")
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
