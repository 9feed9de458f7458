"""Image files to one display-correct 8-bit grey picture, geometry kept."""

import io
import os
import stat
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from .dicom import dicom_size, read_dicom

MAX_PIXELS = 40_000_000  # more than twice the largest detectors (about 4300 x 4300)
MAX_BYTES = 256 * 2**20
MIN_SIDE = 16
ORIENTATION = 0x0112  # EXIF: how a camera was held
MAX_COLOUR = 24.0  # mean distance between the largest and the smallest of R, G, B; tinted film scans stay below
DETECTOR_BITS = (8, 10, 12, 14, 16)


def read_radiograph(
    source: Any,
    name: str = "image",
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    needed: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
) -> Image.Image:
    """One radiograph as it is to be looked at: PIL mode "L", at its stored size, turned as its EXIF orientation says.

    PNG and JPEG: grey, RGB, RGBA (over black) and palette become luminance. 16-bit grey is scaled linearly from the
    smallest detector depth that holds its largest value (8, 10, 12, 14 or 16 bits), so zero stays black. DICOM, told by
    content, not by name: modality LUT or rescale, then VOI LUT or window (without either, 8 bits as stored and deeper
    ones from their smallest to their largest value), MONOCHROME1 inverted, padding black. Where inverting would turn a
    frontal chest into its negative, the label is wrong: the picture is left as stored, with a warning.

    Args:
        source: a path, the file's bytes, a binary file object, a PIL image, a NumPy array or torch tensor (grey (H, W),
            (1, H, W) or (H, W, 1), or with 3 or 4 channels first or last; 8- or 16-bit integers, or floats within
            [0, 1]), or a `datasets.Image` dictionary {"bytes", "path"}.
        name: what an error calls it, besides the file's own name.
        max_pixels, max_bytes: larger pictures and files are refused before they are decoded.
        needed: stored (width, height) -> the least that is needed. A JPEG is then decoded at the least scale (a half, a
            quarter or an eighth of its sides) that gives as much, which is faster and nearly the same picture once it
            is reduced; `stored_size` tells the size that it is stored in. None: at its stored size.

    Raises:
        ValueError: an unreadable, truncated or empty file; several frames; a constant picture; a colour photograph; a
            picture too large, or with a side under 16 pixels; a DICOM that is no radiograph. It names the file.
    """
    if isinstance(source, Image.Image):
        picture = _from_pil(source, name, max_pixels)
    elif isinstance(source, np.ndarray | torch.Tensor):
        picture = _from_array(source, name, max_pixels)
    else:
        data, name = _read_bytes(source, name, max_bytes)
        if data[128:132] == b"DICM":
            size = partial(_check_size, name=name, max_pixels=max_pixels)
            picture = _from_pil(Image.fromarray(read_dicom(data, name, size)), name, max_pixels)
        else:
            picture = _from_file(data, name, max_pixels, needed)
    darkest, brightest = picture.getextrema()
    if darkest == brightest:
        raise ValueError(f"{name}: every pixel has the same value, so there is no radiograph in it; leave it out.")
    return picture


def stored_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) that a picture of `read_radiograph` is stored in, whatever scale it was decoded at."""
    return picture.info.get("stored_size", picture.size)


def picture_size(source: Any, name: str = "image", max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) by the header of a PNG, JPEG or DICOM, whose pixels are not decoded.

    Args:
        source: a path, the file's bytes, or a `datasets.Image` dictionary {"bytes", "path"}; of a PIL image, its size.
        name: what an error calls it.

    Raises:
        ValueError: no such file, another kind of file, several frames, a picture too large or too small; names it.
    """
    if isinstance(source, Image.Image):
        return source.size
    data, name = _read_bytes(source, name, MAX_BYTES)
    if data[128:132] == b"DICM":
        width, height = dicom_size(data, name)
        _check_size(width, height, name, max_pixels)
        return width, height
    picture = _opened(data, name, max_pixels)
    _check_picture(picture, name, max_pixels)
    width, height = picture.size
    return (height, width) if _lies_on_its_side(picture) else (width, height)


def _read_bytes(source: Any, name: str, max_bytes: int) -> tuple[bytes, str]:
    if isinstance(source, dict):
        path = source.get("path")
        name = f"{name} ({path})" if path else name
        source = path if source.get("bytes") is None else source["bytes"]
    if isinstance(source, str | os.PathLike):
        name = f"{name} ({os.fspath(source)})" if os.fspath(source) not in name else name
        try:
            if not stat.S_ISREG(os.stat(source).st_mode):  # a pipe would be waited for, for ever
                raise ValueError("it is no regular file")
            with open(source, "rb") as file:
                data = file.read(max_bytes + 1)
        except (OSError, ValueError) as error:  # ValueError: a path with a null byte or a lone surrogate
            reason = getattr(error, "strerror", None) or error
            raise ValueError(_printable(f"{name}: it cannot be opened ({reason}); check the path.")) from error
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source[: max_bytes + 1])
    elif hasattr(source, "read"):
        data = source.read(max_bytes + 1)
    else:
        raise ValueError(
            f"{name}: {type(source).__name__} is not a picture; give a path, bytes, a binary file, a PIL image, an "
            "array or a tensor."
        )
    if not data:
        raise ValueError(f"{name}: the file is empty; fetch it again.")
    if len(data) > max_bytes:
        raise ValueError(f"{name}: the file has more than {max_bytes} bytes; no radiograph needs as many.")
    return data, name


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _from_file(data: bytes, name: str, max_pixels: int, needed: Callable | None = None) -> Image.Image:
    picture = _opened(data, name, max_pixels)
    if needed is None or picture.format != "JPEG":
        return _from_pil(picture, name, max_pixels)
    _check_picture(picture, name, max_pixels)
    sideways = _lies_on_its_side(picture)
    size = picture.size[::-1] if sideways else picture.size
    least = needed(size)
    picture.draft(None, least[::-1] if sideways else least)
    picture = _from_pil(picture, name, max_pixels)
    picture.info["stored_size"] = size
    return picture


def _opened(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """A PNG or JPEG of which no pixel is decoded yet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: more than {max_pixels} pixels; reduce it first.") from error
    except Exception as error:
        raise ValueError(
            f"{name}: it is damaged, or not a PNG, JPEG or DICOM file; fetch it again, or convert it."
        ) from error


def _lies_on_its_side(picture: Image.Image) -> bool:
    """EXIF says that width and height change places."""
    return picture.getexif().get(ORIENTATION, 1) >= 5


def _check_picture(picture: Image.Image, name: str, max_pixels: int) -> None:
    _check_size(*picture.size, name, max_pixels)
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"{name}: it holds {frames} frames; give one radiograph at a time.")


def _from_pil(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_picture(picture, name, max_pixels)
    try:
        picture.load()
    except Exception as error:
        raise ValueError(f"{name}: the picture data are damaged or cut short; fetch the file again.") from error
    if picture.getexif().get(ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    try:
        return _luminance(picture, name, max_pixels)
    except (KeyError, OSError, RuntimeError) as error:
        raise ValueError(f"{name}: pictures of mode {picture.mode} are not read; save it as grey or RGB.") from error


def _luminance(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    if picture.mode == "L":
        return picture
    if picture.mode in ("La", "RGBa"):  # colour that is multiplied by alpha: Pillow divides it only into these
        picture = picture.convert(picture.mode.upper())
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _from_array(np.asarray(picture), name, max_pixels)
    if picture.mode in ("1", "LA"):
        alpha = picture.getchannel("A") if "A" in picture.getbands() else None
        grey = picture.convert("L")
        return Image.composite(grey, Image.new("L", grey.size), alpha) if alpha else grey
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return _grey(picture.convert("RGB"), name)


def _grey(picture: Image.Image, name: str) -> Image.Image:
    sample = np.asarray(picture)[:: max(1, picture.height // 64), :: max(1, picture.width // 64)]
    if np.ptp(sample, axis=2).mean() > MAX_COLOUR:
        raise ValueError(f"{name}: it looks like a colour photograph; give the radiograph itself, in grey.")
    return picture.convert("L")


def _from_array(array, name: str, max_pixels: int) -> Image.Image:
    array = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ValueError(f"{name}: no picture has shape {array.shape}; give (H, W), or 1, 3 or 4 channels.")
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"{name}: floats must be finite and within [0, 1]; rescale them, or give integers.")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 65535:
        raise ValueError(f"{name}: values of {array.dtype} outside 0..65535 are not grey levels; rescale them.")
    elif array.dtype != np.uint8:
        bits = next(bits for bits in DETECTOR_BITS if array.max() < 2**bits)
        array = np.rint(array * (255 / (2**bits - 1))).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(array))
    return picture if picture.mode == "L" else _from_pil(picture, name, max_pixels)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"{name}: {width} x {height} is more than {max_pixels} pixels; reduce it first.")
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{name}: {width} x {height} is too small for a radiograph; give at least {MIN_SIDE} a side.")
