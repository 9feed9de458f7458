"""What the project is installed with."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines)}


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return [each for each in map(Requirement, texts) if each.name != "cogaze"]


def test_every_dependency_is_pinned_within_its_bounds():
    pins = pinned()
    for requirement in declared():
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pins, f"{name}: not in constraints.txt"
        assert Version(pins[name]) in requirement.specifier, f"{requirement}, but {pins[name]} is pinned"


@pytest.mark.parametrize(
    "name, last_with_a_hole",
    [
        ("torch", "2.9.1"),  # CVE-2026-24747
        ("pyarrow", "23.0.0"),  # CVE-2026-25087
        ("scikit-learn", "1.4.2"),  # CVE-2024-5206
        ("pillow", "12.1.1"),  # CVE-2026-42311
        ("pydicom", "3.0.1"),  # CVE-2026-32711
        ("jinja2", "3.1.5"),  # CVE-2025-27516
        ("tqdm", "4.66.2"),  # CVE-2024-34062
        ("gradio", "6.6.0"),  # CVE-2026-28414
        ("pytest", "9.0.2"),  # CVE-2025-71176
    ],
)
def test_lower_bounds_leave_out_releases_with_known_holes(name, last_with_a_hole):
    bounds = [each.specifier for each in declared() if each.name == name]
    assert bounds and all(Version(last_with_a_hole) not in each for each in bounds)


def test_no_decoder_with_a_known_hole_is_asked_for():
    """pylibjpeg-openjpeg up to 2.6.0 carries OpenJPEG 2.5.2: CVE-2025-54874."""
    assert "pylibjpeg-openjpeg" not in pinned() and "pylibjpeg-openjpeg" not in {each.name for each in declared()}


def test_the_hooks_run_the_pinned_linter():
    asked = re.findall(r"ruff==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert asked == [pinned()["ruff"]] * 2


@pytest.mark.slow
@pytest.mark.network
def test_no_pinned_release_has_a_known_hole():
    """Asks the advisory database of PyPI."""
    pytest.importorskip("pip_audit")
    command = [sys.executable, "-m", "pip_audit", "-r", ROOT / "constraints.txt", "--no-deps", "--disable-pip"]
    audit = subprocess.run([*command, "-f", "json"], capture_output=True, text=True, timeout=600)
    if not audit.stdout:
        assert re.search(r"ConnectionError|Max retries|Could not connect|ServiceError|ProxyError", audit.stderr), (
            audit.stderr
        )
        pytest.skip("the advisory database cannot be reached")
    found = json.loads(audit.stdout)["dependencies"]
    # Without an answer pip-audit leaves a release out, and exits with 0.
    audited = [each for each in found if "vulns" in each]
    if not audited:
        pytest.skip(f"no release could be audited: {found[0]['skip_reason']}")
    assert len(audited) > 0.9 * len(pinned()), "some releases could not be audited"
    assert not [each for each in audited if each["vulns"]]
