"""The project as a wheel, in a virtual environment and a folder of its own."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs a command of an environment that has the wheel, and this one's packages for the rest; in an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")

    def run(*command) -> str:
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    work = folder / "empty"
    work.mkdir()
    pip = [sys.executable, "-m", "pip", "-q"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    run(*pip, "wheel", *options, ROOT)
    (wheel,) = folder.glob("cogaze-*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    scripts = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    run(*pip, "--python", scripts / "python", "install", "--no-deps", "--no-index", wheel)
    # After the installation, or pip would find the project installed. Its .pth files are not read from here.
    own = sysconfig.get_path("purelib", vars={"base": str(folder / "venv"), "platbase": str(folder / "venv")})
    (Path(own) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return lambda program, *arguments: run(scripts / program, *arguments), Path(own), work


def files_in(folder: Path) -> dict[Path, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_a_wheel_is_enough(installed):
    run, packages, work = installed
    version = run("cogaze", "--version").split()
    assert version[0] == "cogaze" and "publish" in run("cogaze", "--help")
    code = "import training, json; print(json.dumps([training.__version__, training.__file__]))"
    number, place = json.loads(run("python", "-c", code))
    assert number == version[1] and Path(place).is_relative_to(packages)

    assert "app.py" in run("cogaze", "publish", "--space", "--dry_run", "--output_dir", "space")
    assert not (work / "space").exists()
    run("cogaze", "publish", "--space", "--output_dir", "space")
    assert files_in(work / "space") == files_in(ROOT / "spaces" / "report_generation") != {}

    code = "from training.hub.beside import license_files as files; print([f.read_text().strip()[:9] for f in files()])"
    licenses = run("python", "-c", code)
    assert "Apache" in licenses and "CoGaze" in licenses and licenses.count("', '") == 1
    run("python", "-c", "from processing.datasets import load; assert len(load('phantom', split='test', size=2)) == 2")
