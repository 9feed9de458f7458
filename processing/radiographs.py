"""Image files to one display-correct 8-bit grey picture, geometry kept."""

import io
import os
import struct
import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image

MAX_PIXELS = 40_000_000  # more than twice the largest detectors (about 4300 x 4300)
MAX_BYTES = 256 * 2**20
MIN_SIDE = 16
MAX_COLOUR = 24.0  # mean distance between the largest and the smallest of R, G, B; tinted film scans stay below
RADIOGRAPHIC_MODALITIES = ("CR", "DX", "RG", "RF", "XA", "OT", "SC", "MG", "PX", "IO", "")
DETECTOR_BITS = (8, 10, 12, 14, 16)
MISLABELLED_POLARITY = -0.2
# A transfer syntax that is inflated whole, to any size, before anything can be checked.
DEFLATED = b"1.2.840.10008.1.2.1.99"


def read_radiograph(
    source: Any, name: str = "image", max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Image.Image:
    """One radiograph as it is to be looked at: PIL mode "L", at its stored size and orientation.

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
            picture = _from_dicom(data, name, max_pixels)
        else:
            picture = _from_file(data, name, max_pixels)
    darkest, brightest = picture.getextrema()
    if darkest == brightest:
        raise ValueError(f"{name}: every pixel has the same value, so there is no radiograph in it; leave it out.")
    return picture


def _read_bytes(source, name: str, max_bytes: int) -> tuple[bytes, str]:
    if isinstance(source, dict):
        path = source.get("path")
        name = f"{name} ({path})" if path else name
        source = path if source.get("bytes") is None else source["bytes"]
    if isinstance(source, str | os.PathLike):
        name = f"{name} ({os.fspath(source)})" if os.fspath(source) not in name else name
        try:
            with open(source, "rb") as file:
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise ValueError(f"{name}: it cannot be opened ({error.strerror}); check the path.") from error
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


def _from_file(data: bytes, name: str, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: more than {max_pixels} pixels; reduce it first.") from error
    except Exception as error:
        raise ValueError(
            f"{name}: it is damaged, or not a PNG, JPEG or DICOM file; fetch it again, or convert it."
        ) from error
    return _from_pil(picture, name, max_pixels)


def _from_pil(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_size(*picture.size, name, max_pixels)
    if getattr(picture, "n_frames", 1) > 1:
        raise ValueError(f"{name}: it holds {picture.n_frames} frames; give one radiograph at a time.")
    try:
        picture.load()
    except Exception as error:
        raise ValueError(f"{name}: the picture data are damaged or cut short; fetch the file again.") from error
    if picture.mode == "L":
        return picture
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _from_array(np.asarray(picture), name, max_pixels)
    if picture.mode in ("1", "LA", "La"):
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


def _from_dicom(data: bytes, name: str, max_pixels: int) -> Image.Image:
    try:
        import pydicom.encaps
        import pydicom.pixels
    except ImportError as error:
        raise ImportError(f"{name}: reading DICOM needs `pip install pydicom pylibjpeg[all]`.") from error
    if DEFLATED in data:
        raise ValueError(f"{name}: deflated DICOM is not read; store it in another transfer syntax.")
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
    except Exception as error:
        raise ValueError(f"{name}: the DICOM is damaged or cut short; fetch the file again.") from error
    _check_dicom(dataset, name, max_pixels)
    try:
        _check_coded(dataset, pydicom.encaps)
        stored = dataset.pixel_array
        share = _display_share(stored, dataset, pydicom.pixels) if stored.ndim == 2 else None
    except Exception as error:
        raise ValueError(
            f"{name}: its pixels cannot be decoded; fetch it again, or install pylibjpeg[all] if it is compressed."
        ) from error
    if share is None:
        return _from_array(stored, name, max_pixels)
    padding = _padding(stored, dataset)
    picture = _picture(share, padding)
    if dataset.PhotometricInterpretation != "MONOCHROME1":
        return picture
    inverted = _picture(1 - share, padding)
    if _frontal_polarity(inverted) < MISLABELLED_POLARITY:
        warnings.warn(f"{name}: labelled MONOCHROME1, but stored as MONOCHROME2; read as that.", stacklevel=3)
        return picture
    return inverted


def _picture(share: np.ndarray, padding: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(np.where(padding, 0, share) * 255).astype(np.uint8))


def _frontal_polarity(picture: Image.Image) -> float:
    """Correlation, -1 to 1, with a sketch of a frontal chest: mediastinum and abdomen bright, lungs and corners dark.

    721 of 721 frontal NIH radiographs come out above 0, half of them above 0.57; their negatives have the other sign.
    """
    y, x = (np.mgrid[0:24, 0:24] + 0.5) / 24
    lung = np.exp(-(((abs(x - 0.5) - 0.21) / 0.11) ** 2) - ((y - 0.42) / 0.2) ** 2)
    mediastinum = np.exp(-(((x - 0.5) / 0.08) ** 2)) * (y > 0.2)
    abdomen = (y > 0.8) & (abs(x - 0.5) < 0.35)
    corner = (y < 0.12) & (abs(x - 0.5) > 0.3)
    sketch = 0.8 * mediastinum + 0.6 * abdomen - lung - corner
    small = np.asarray(picture.resize((24, 24), Image.Resampling.BOX), np.float64)
    return float(np.nan_to_num(np.corrcoef(small.ravel(), sketch.ravel())[0, 1]))


def _check_dicom(dataset, name: str, max_pixels: int) -> None:
    modality = str(dataset.get("Modality") or "")
    if modality not in RADIOGRAPHIC_MODALITIES:
        raise ValueError(f"{name}: a DICOM of modality {modality} is no radiograph; leave it out.")
    if "PixelData" not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
        raise ValueError(f"{name}: the DICOM holds no picture; leave it out.")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ValueError(f"{name}: the DICOM holds {dataset.NumberOfFrames} frames; give one radiograph at a time.")
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        raise ValueError(f"{name}: a DICOM in palette colours is no radiograph; export it as a grey picture.")
    _check_size(int(dataset.Columns), int(dataset.Rows), name, max_pixels)


def _check_coded(dataset, encaps) -> None:
    """A decoder makes room for what the compressed picture says of its size, whatever the DICOM's header says."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        coded = _coded_size(encaps.get_frame(dataset.PixelData, 0, number_of_frames=1))
        if coded not in (None, (dataset.Columns, dataset.Rows, dataset.SamplesPerPixel)):
            raise ValueError(f"coded size {coded}")


def _coded_size(coded: bytes) -> tuple[int, int, int] | None:
    """Width, height and components that a JPEG, JPEG-LS or JPEG 2000 says it has."""
    if (start := coded.find(b"\xff\x4f\xff\x51")) >= 0 and not coded.startswith(b"\xff\xd8"):
        width, height, left, top = struct.unpack_from(">4I", coded, start + 8)
        return width - left, height - top, *struct.unpack_from(">H", coded, start + 40)
    place = 2
    while coded.startswith(b"\xff\xd8") and place + 9 < len(coded) and coded[place] == 0xFF:
        marker, length = struct.unpack_from(">BH", coded, place + 1)
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width, components = struct.unpack_from(">HHB", coded, place + 5)
            return width, height, components
        place += 2 + length
    return None


def _display_share(stored: np.ndarray, dataset, pixels) -> np.ndarray:
    """Where each pixel lies between the ends of the display, 0 to 1, before MONOCHROME1 is inverted."""
    values = pixels.apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        values = np.rint(values).astype(np.int64)
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif dataset.get("WindowWidth") and "WindowCenter" in dataset:
        with np.errstate(over="ignore"):
            low, high = pixels.apply_voi_lut(np.array([-1e9, 1e9]), dataset)
    elif dataset.BitsStored == 8 and not dataset.PixelRepresentation and np.array_equal(values, stored):
        low, high = 0, 255
    else:
        shown = values[~_padding(stored, dataset)]
        low, high = (shown.min(), shown.max()) if shown.size else (0, 1)
    displayed = pixels.apply_voi_lut(values, dataset).astype(np.float64)
    return np.clip((displayed - low) / max(high - low, 1e-9), 0, 1)


def _padding(stored: np.ndarray, dataset) -> np.ndarray:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return (stored >= min(value, limit)) & (stored <= max(value, limit))
