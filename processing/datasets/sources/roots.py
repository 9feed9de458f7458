"""Roots of downloads, and the files in them."""

import codecs
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")


def find_root(root, source: str, *markers: str) -> Path:
    """The folder itself if it holds all `markers` (glob patterns; alternatives apart by "|").

    Raises:
        ValueError: it does not; names what is missing, and the folder up to two levels up or down that has it.
    """
    if root is None:
        raise ValueError(f"root: {source} needs the folder that it was downloaded to.")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"root: {root} is not a folder; give the one that {source} was downloaded to.")
    missing = _missing(root, markers)
    if not missing:
        return root
    near = [root.parent, root.parent.parent, *_folders(root)]
    better = next((folder for folder in near if not _missing(folder, markers)), None)
    hint = f"{better} has it: give that." if better else "check that the download is complete."
    raise ValueError(f"root: {root} holds no {missing[0].replace('|', ' or ')}, which {source} needs; {hint}")


def _missing(folder: Path, markers: Iterable[str]) -> list[str]:
    def there(pattern: str) -> bool:
        return any(folder.glob(pattern)) if "*" in pattern else (folder / pattern).exists()

    return [marker for marker in markers if not any(there(pattern) for pattern in marker.split("|"))]


def _folders(root: Path, most: int = 200) -> list[Path]:
    """Folders one and two levels down, at most `most` of each level (a patient's folder each would be thousands)."""
    first = [Path(entry) for entry in os.scandir(root) if entry.is_dir()][:most]
    second = [Path(entry) for folder in first for entry in os.scandir(folder) if entry.is_dir()][:most]
    return sorted(first) + sorted(second)


def first_file(root: Path, *patterns: str) -> Path | None:
    """The first file that matches one of the glob patterns, in their order."""
    return next((path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()), None)


def require_file(root: Path, source: str, *patterns: str) -> Path:
    """`first_file`, or a ValueError that names what is missing and where."""
    found = first_file(root, *patterns)
    if found is None:
        raise ValueError(f"root: {source} needs {' or '.join(patterns)} under {root}, and there is none.")
    return found


def found_among(root: Path, places: Sequence[str]) -> str:
    """The first of the places under the root where there is a file, else the first one (for the message)."""
    return next((str(path) for path in map(root.joinpath, places) if path.is_file()), str(root / places[0]))


def image_index(*folders: Path, patterns: Sequence[str]) -> dict[str, str]:
    """Stem -> path of the image files that match; the first of equal stems counts."""
    found: dict[str, str] = {}
    for folder in folders:
        for pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                found.setdefault(stem(path.name), str(path))
    return found


def stem(name: str) -> str:
    """A file name without its folders and image suffix ("1.2.840.8" and the like keep their dots)."""
    name = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_text(path, noted: Counter | None = None) -> str:
    """A text file as UTF-8, as UTF-16 where it says so, or as Latin-1 (counted in `noted`)."""
    data = Path(path).read_bytes()
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if noted is not None:
            noted["text file not in UTF-8, read as Latin-1"] += 1
        return data.decode("latin-1")


@contextmanager
def documented(file, what: str) -> Iterator[None]:
    """In which a file's content is taken apart, whose publisher has said what it holds.

    Raises:
        ValueError: it holds something else; names the file.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if str(file) in str(error):
            raise
        raise ValueError(f"{file}: it is not {what} ({error!r}); download it again.") from error
