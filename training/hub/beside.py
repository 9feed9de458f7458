"""What lies beside the packages in a checkout, and elsewhere once they are installed from a wheel."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LICENSES = ("LICENSE", "NOTICE")


def space_folder() -> Path:
    """The report Space's files: `spaces/report_generation`, or the copy that a wheel carries."""
    checkout = ROOT / "spaces" / "report_generation"
    return checkout if checkout.is_dir() else Path(__file__).with_name("space")


def license_files() -> list[Path]:
    """LICENSE and NOTICE: of the checkout, or of the installed distribution.

    Raises:
        FileNotFoundError: neither is there.
    """
    if (ROOT / "spaces").is_dir():
        found = [ROOT / name for name in LICENSES]
    else:
        try:
            files = distribution("cogaze").files or []
        except PackageNotFoundError:
            files = []
        found = [Path(file.locate()) for file in files if file.name in LICENSES and file.parent.name == "licenses"]
    found = [path for path in found if path.is_file()]
    if len(found) != len(LICENSES):
        raise FileNotFoundError(f"{' and '.join(LICENSES)}: not beside the packages; install cogaze with pip.")
    return found
