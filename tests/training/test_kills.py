"""A run that is killed at any moment goes on by itself, and ends as the one that was left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_fifty_kills_lose_nothing(tmp_path):
    # In a process of its own: children are forked, which must not have pytest's threads.
    command = [sys.executable, "-m", "tests.training.kills", "--kills", "50", "--folder", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600)
    assert found.returncode == 0, found.stderr[-2000:]
    kinds = json.loads(found.stdout[found.stdout.index("{") :])
    assert sum(kind["kills"] for kind in kinds.values()) >= 50
    for name, kind in kinds.items():
        assert kind["failed"] == 0 and kind["different"] == 0, f"{name}: {kind}"
