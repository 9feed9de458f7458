"""DICOM radiographs as they are to be shown: grey levels in float64 between black and white.

The display pipeline is DICOM PS3.3 C.11.1 (modality LUT or rescale) and C.11.2 (VOI LUT or window), computed in
float64: stored integers neither overflow nor turn the display's ends around, whatever their sign and the rescale's.
"""

import io
import struct
import warnings

import numpy as np
from PIL import Image

RADIOGRAPHIC_MODALITIES = ("CR", "DX", "RG", "RF", "XA", "OT", "SC", "MG", "PX", "IO", "")
GREY = ("MONOCHROME1", "MONOCHROME2")
MISLABELLED_POLARITY = -0.2
# A transfer syntax that is inflated whole, to any size, before anything can be checked.
DEFLATED = b"1.2.840.10008.1.2.1.99"


def read_dicom(data: bytes, name: str, check_size) -> np.ndarray:
    """A DICOM file's picture as it is to be shown.

    Args:
        data: the file. name: what an error calls it.
        check_size: (width, height) -> None, raises for a picture that is too large or too small; called before any
            pixel is decoded.

    Returns:
        (H, W) or (H, W, 3) uint8, black 0.

    Raises:
        ValueError: a damaged, deflated or compressed-otherwise file, several frames, no radiograph; names the file.
    """
    pydicom = _reader(data, name)
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        fault = _fault(dataset, check_size)
    except _Refused as error:
        raise ValueError(str(error.__cause__)) from error.__cause__
    except Exception as error:
        raise ValueError(f"{name}: the DICOM is damaged or cut short; fetch the file again.") from error
    if fault:
        raise ValueError(f"{name}: {fault}")
    try:
        _check_coded(dataset, pydicom.encaps)
        stored = dataset.pixel_array
    except Exception as error:
        raise ValueError(
            f"{name}: its pixels cannot be decoded; fetch it again, or install pylibjpeg-libjpeg if it is compressed."
        ) from error
    if stored.ndim == 3:
        full = 2 ** int(dataset.BitsStored) - 1
        return np.rint(np.clip(stored.astype(np.float64) / full, 0, 1) * 255).astype(np.uint8)
    try:
        share, padding = _display_share(stored, dataset, pydicom.pixels, name), _padding(stored, dataset)
    except Exception as error:
        raise ValueError(
            f"{name}: its rescale, window or lookup table is damaged ({error}); mend or remove it."
        ) from error
    picture = _picture(share, padding)
    if dataset.PhotometricInterpretation != "MONOCHROME1":
        return picture
    inverted = _picture(1 - share, padding)
    if _frontal_polarity(inverted) < MISLABELLED_POLARITY:
        warnings.warn(f"{name}: labelled MONOCHROME1, but stored as MONOCHROME2; read as that.", stacklevel=4)
        return picture
    return inverted


def dicom_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) by a DICOM's header; errors as in `read_dicom`, of what the header tells."""
    pydicom = _reader(data, name)
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        return int(dataset.Columns), int(dataset.Rows)
    except Exception as error:
        raise ValueError(f"{name}: the DICOM is damaged or cut short; fetch the file again.") from error


def _reader(data: bytes, name: str):
    """pydicom, for data that it may be given."""
    try:
        import pydicom
        import pydicom.encaps
        import pydicom.pixels
    except ImportError as error:
        raise ImportError(f"{name}: reading DICOM needs `pip install pydicom pylibjpeg-libjpeg`.") from error
    if DEFLATED in data:
        raise ValueError(f"{name}: deflated DICOM is not read; store it in another transfer syntax.")
    return pydicom


class _Refused(Exception):
    """Carries an error of `check_size` past what guards against damaged headers."""


def _picture(share: np.ndarray, padding: np.ndarray) -> np.ndarray:
    return np.rint(np.where(padding, 0, share) * 255).astype(np.uint8)


def _frontal_polarity(picture: np.ndarray) -> float:
    """Correlation, -1 to 1, with a sketch of a frontal chest: mediastinum and abdomen bright, lungs and corners dark.

    721 of 721 frontal NIH radiographs come out above 0, half of them above 0.57; their negatives have the other sign.
    """
    y, x = (np.mgrid[0:24, 0:24] + 0.5) / 24
    lung = np.exp(-(((abs(x - 0.5) - 0.21) / 0.11) ** 2) - ((y - 0.42) / 0.2) ** 2)
    mediastinum = np.exp(-(((x - 0.5) / 0.08) ** 2)) * (y > 0.2)
    abdomen = (y > 0.8) & (abs(x - 0.5) < 0.35)
    corner = (y < 0.12) & (abs(x - 0.5) > 0.3)
    sketch = 0.8 * mediastinum + 0.6 * abdomen - lung - corner
    small = np.asarray(Image.fromarray(picture).resize((24, 24), Image.Resampling.BOX), np.float64)
    return float(np.nan_to_num(np.corrcoef(small.ravel(), sketch.ravel())[0, 1]))


def _fault(dataset, check_size) -> str | None:
    """What of the header says that this is no radiograph to read."""
    modality = str(dataset.get("Modality") or "")
    if modality not in RADIOGRAPHIC_MODALITIES:
        return f"a DICOM of modality {modality} is no radiograph; leave it out."
    if "PixelData" not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
        return "the DICOM holds no picture; leave it out."
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        return f"the DICOM holds {dataset.NumberOfFrames} frames; give one radiograph at a time."
    for tag in ("PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel"):
        if dataset.get(tag) in (None, ""):
            return f"the DICOM lacks {tag}, without which its pixels have no meaning; fetch it again."
    if not 1 <= int(dataset.BitsStored) <= int(dataset.BitsAllocated):
        return f"the DICOM has BitsStored {dataset.BitsStored} of {dataset.BitsAllocated} allocated; fetch it again."
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return "a DICOM in palette colours is no radiograph; export it as a grey picture."
    if dataset.SamplesPerPixel == 1 and dataset.PhotometricInterpretation not in GREY:
        return f"a grey DICOM cannot be {dataset.PhotometricInterpretation}; it is MONOCHROME1 or MONOCHROME2."
    if dataset.SamplesPerPixel > 1 and dataset.PixelRepresentation:
        return "a colour DICOM with signed pixels is not defined; export it as a grey picture."
    try:
        check_size(int(dataset.Columns), int(dataset.Rows))
    except ValueError as error:
        raise _Refused from error
    return None


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


def _display_share(stored: np.ndarray, dataset, pixels, name: str) -> np.ndarray:
    """Where each pixel lies between the ends of the display, 0 to 1, before MONOCHROME1 is inverted. float64."""
    values = np.asarray(pixels.apply_modality_lut(stored, dataset), np.float64)
    if not np.isfinite(values).all():
        raise ValueError("RescaleSlope and RescaleIntercept give values that are not finite")
    if dataset.get("VOILUTSequence"):
        shown = pixels.apply_voi(np.rint(values).astype(np.int64), dataset).astype(np.float64)
        return np.clip(shown / (2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1), 0, 1)
    window = _window(dataset, name)
    if window:
        return _windowed(values, *window)
    if dataset.BitsStored == 8 and not dataset.PixelRepresentation and np.array_equal(values, stored):
        return values / 255
    shown = values[~_padding(stored, dataset)]
    low, high = (shown.min(), shown.max()) if shown.size else (0.0, 1.0)
    return np.clip((values - low) / max(high - low, 1e-9), 0, 1)


def _window(dataset, name: str) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window; None where there is none that can be used."""
    if dataset.get("WindowWidth") is None or dataset.get("WindowCenter") is None:
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    centre, width = (np.ravel(dataset[tag].value).astype(np.float64) for tag in ("WindowCenter", "WindowWidth"))
    usable = centre.size and width.size and np.isfinite([centre[0], width[0]]).all()
    # PS3.3 C.11.2.1.2: LINEAR needs a width of 1 or more, the others one above 0.
    if not usable or width[0] <= 0 or (function == "LINEAR" and width[0] < 1):
        warnings.warn(
            f"{name}: WindowWidth {dataset.WindowWidth} is no window; shown from the least to the greatest value.",
            stacklevel=6,
        )
        return None
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"VOILUTFunction {function} is none of LINEAR, LINEAR_EXACT and SIGMOID")
    return float(centre[0]), float(width[0]), function


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID) and C.11.2.1.3.2 (LINEAR_EXACT), to 0 ... 1."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _padding(stored: np.ndarray, dataset) -> np.ndarray:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [_as_stored(end, dataset) for end in (value, value if limit is None else limit)]
    return (stored >= min(ends)) & (stored <= max(ends))


def _as_stored(value, dataset) -> int:
    """A padding value in the pixels' own sign: many files write that of signed pixels as unsigned, and the reverse."""
    value, span = int(value), 2 ** int(dataset.BitsAllocated)
    if dataset.PixelRepresentation and value >= span // 2:
        return value - span
    return value + span if value < 0 and not dataset.PixelRepresentation else value
