"""The environment of the metrics whose packages cannot stand in the project's own.

    cogaze metrics_environment

makes `.venv-metrics` beside `.venv`: a virtual environment with `radeval` and what its RadGraph, SRR-BERT and BERTScore
import. `radeval` also requires medspacy and stanza, whose old spaCy does not go with the project's numpy and which
these metrics do not use, so its requirements are pinned here instead of being resolved. PyTorch and transformers are
those of the Python that makes it.
"""

import argparse
import json
import os
import subprocess
import sysconfig
import venv
from pathlib import Path

from ..scores import MetricUnavailable

REQUIREMENTS = (
    "radeval==2.2.1",
    "appdirs==1.4.4",
    "dotmap==1.3.30",
    "h5py==3.16.0",
    "jsonpickle==4.1.4",
    "loguru==0.7.3",
    "nltk==3.10.4",
    "rouge_score==0.1.2",
    "six==1.17.0",
    # What nltk needs; the project has these only by way of others.
    "click==8.5.1",
    "defusedxml==0.7.1",
    "joblib==1.6.0",
    "regex==2026.11.15",
)
DEFAULT_FOLDER = Path(__file__).resolve().parents[3] / ".venv-metrics"
_HOW = "make the metrics' environment with `cogaze metrics_environment`"
WORKER = Path(__file__).with_name("worker.py")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    folder = parser.parse_args(argv).folder
    build(folder)
    print(f"{folder}: {json.dumps(ask('check', {}, folder_python(folder)))}")


def build(folder: Path) -> None:
    """Make the environment, in place of an older one.

    Raises:
        ValueError: the folder holds something else.
        CalledProcessError: pip fails.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise ValueError(f"folder: {folder} is not empty and no virtual environment; give another one.")
    venv.create(folder, with_pip=True, clear=True)
    python = folder_python(folder)
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", *REQUIREMENTS]
    subprocess.run(command, check=True)
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (own / "parent_environment.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")


def folder_python(folder: Path) -> str:
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def ask(
    operation: str, arguments: dict, python: str | None = None, timeout: float = 3600, needs: str = "its packages"
) -> dict:
    """Run one operation of `worker` in the metrics' own process.

    Args:
        python: the interpreter; by default that of `.venv-metrics`.
        timeout: seconds.
        needs: what the operation loads, for the message when it fails.

    Raises:
        MetricUnavailable: there is no such environment, the process fails or takes too long, or the metric does not
            find its files.
    """
    python = python or folder_python(DEFAULT_FOLDER)
    if not Path(python).is_file():
        raise MetricUnavailable(f"there is no {python}; {_HOW}.")
    request = json.dumps({"operation": operation, "arguments": arguments})
    try:
        done = subprocess.run(
            [python, str(WORKER)],
            input=request,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "PYTHONUTF8": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailable(f"the metric's process did not end within {timeout:g} s (--timeout).") from error
    except OSError as error:
        raise MetricUnavailable(f"{python} cannot be run ({error}).") from error
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise MetricUnavailable(f"the metric's process failed (exit code {done.returncode}: {reason}).") from error
    if answer.get("error", "").startswith("ModuleNotFoundError"):
        raise MetricUnavailable(f"{python} lacks a package ({answer['error']}); {_HOW}.")
    if "error" in answer:
        raise MetricUnavailable(f"it needs {needs} ({answer['error']}).")
    return answer


if __name__ == "__main__":
    main()
