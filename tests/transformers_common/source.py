"""Where transformers' own tests are, and how they become importable.

    python -m tests.transformers_common.source

takes the source distribution of the installed version into a cache folder (never committed). A checkout of the same
version does as well, and offers more: `COGAZE_TRANSFORMERS_TESTS=/path/to/transformers/tests`.
"""

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from pathlib import Path

import transformers

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "transformers-tests"
PACKAGE = "tests_of_transformers"
# Modules that the common tests import and the source distribution leaves out, with what stands for their names there.
LEFT_OUT = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {"return_dict": False, "output_attentions": True}},
    # Sends Hub addresses to a cache of their own.
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
}


def tests_folder() -> Path | None:
    """The tests of the installed version, where they have been fetched."""
    given = os.environ.get("COGAZE_TRANSFORMERS_TESTS")
    folder = Path(given) if given else CACHE / f"transformers-{transformers.__version__}" / "tests"
    return folder if (folder / "test_modeling_common.py").is_file() else None


def fetch() -> Path:
    """Have pip download the source distribution of the installed version; returns the folder of its tests."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        wanted = f"transformers=={transformers.__version__}"
        command = ["pip", "download", "--no-deps", "--no-binary", ":all:", "--quiet", "--dest", folder, wanted]
        subprocess.run([sys.executable, "-m", *command], check=True)
        (archive,) = Path(folder).glob("transformers-*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        name = archive.name.removesuffix(".tar.gz")
        (Path(folder) / name / "tests" / "__init__.py").touch()  # asked for, and left out too
        (Path(folder) / name).replace(CACHE / name)
    return tests_folder()


def offered(module: str) -> types.ModuleType:
    """A module of transformers' tests, such as "test_modeling_common".

    Raises:
        ModuleNotFoundError: the tests have not been fetched.
    """
    folder = tests_folder()
    if folder is None:
        raise ModuleNotFoundError("transformers' tests are missing; run `make transformers-tests`, which fetches them")
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = [str(folder)]
        sys.modules[PACKAGE] = package
        for name, stand_ins in LEFT_OUT.items():
            _stand_in(name, stand_ins, folder)
    return importlib.import_module(f"{PACKAGE}.{module}")


def offers_generation() -> bool:
    """Whether these tests hold GenerationTesterMixin, which a checkout does and the source distribution does not."""
    folder = tests_folder()
    return folder is not None and (folder / "generation" / "test_utils.py").is_file()


def _stand_in(name: str, names: dict, folder: Path) -> None:
    if (folder / f"{name.replace('.', '/')}.py").is_file():
        return
    inside = "." in name
    module = types.ModuleType(f"{PACKAGE}.{name}" if inside else name)
    vars(module).update(names)
    if inside:
        parent = f"{PACKAGE}.{name.split('.')[0]}"
        sys.modules.setdefault(parent, types.ModuleType(parent))
    elif (folder.parent / "utils" / f"{name}.py").is_file():
        return
    sys.modules[module.__name__] = module


if __name__ == "__main__":
    print(tests_folder() or fetch())
