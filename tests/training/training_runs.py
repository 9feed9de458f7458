"""Running the scripts of training/, and what they leave behind."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def flags(run: dict, **changes) -> list[str]:
    return [part for name, value in (run | changes).items() for part in (f"--{name}", str(value))]


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(expected, found, **tolerance) -> None:
    """Those that two folders hold: bit for bit, unless tolerances (rtol, atol) are given."""
    expected, found = weights(expected), weights(found)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, **tolerance or {"rtol": 0, "atol": 0}, msg=lambda text, name=name: f"{name}: {text}"
        )


def in_two_processes(module, arguments: list[str], folder: Path) -> None:
    """Run the script of `module` in two CPU processes, from `folder`."""
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", module.__file__]
        + arguments,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=folder,
    )
