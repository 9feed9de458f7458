"""Training, evaluation and publishing; `cogaze --help` lists the commands, which are the files here."""

import sys
from importlib.util import find_spec

__version__ = "0.1.0"

# By the names they are imported by; the whole list is pyproject.toml's.
_REQUIRED = ("torch", "torchvision", "transformers", "accelerate", "datasets", "safetensors", "sklearn", "pydicom")
_INSTALL = "in the folder of pyproject.toml, run `pip install -e .`, or `make setup` for the verified set in .venv"

_missing = [name for name in _REQUIRED if find_spec(name) is None]
if _missing:
    _text = f"cogaze: {', '.join(_missing)} cannot be imported by {sys.executable}; {_INSTALL}."
    # Python looks for `python -m training.<command>`: there, an exception would be a page of its own inside.
    raise SystemExit(_text) if sys.argv[:1] == ["-m"] else ImportError(_text)
if sys.argv[:1] == ["-m"]:
    from .runs.renamed import refuse_old_module

    refuse_old_module(sys.orig_argv)
