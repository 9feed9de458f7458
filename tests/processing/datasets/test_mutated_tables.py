"""Loaders on damaged tables: the right records or an error that names the file, never anything else, and never a hang.

The quick test damages a few tables of each kind, the slow one 1,500.
"""

import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.processing.datasets.table_mutations import SETS, TABLES, Loaded, mutate, verdict

SECONDS = 60  # in which the slowest machine has loaded a handful of records


def judge(load, path: Path, mutation, whole: Loaded, cache: Path) -> str:
    def hang(*_):
        raise TimeoutError(f"nothing after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        return verdict(mutation, whole, Loaded.of(load(cache)))
    except (ValueError, FileNotFoundError) as error:
        named = (
            path.name,
            *(text for text in mutation.touched if len(text) > 1),
            "not one record could be made",
            "split: ",
        )
        said = any(name in str(error) for name in named)
        return "refused" if said else f"{mutation.kind} {mutation.cell!r}: unnamed {type(error).__name__}: {error}"
    except Exception as error:
        return f"{mutation.kind} {mutation.cell!r}: foreign {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def faults(name: str, count: int, seed: int, folder: Path) -> tuple[list[str], Counter]:
    """What went wrong over `count` damaged tables of a data set, and how often they were read or refused."""
    rng = random.Random(f"{name} {seed}")
    load = SETS[name](folder / "set")
    whole = Loaded.of(load(folder / "cache"))
    paths = sorted(path for path in (folder / "set").rglob("*") if path.name.endswith(TABLES))
    found, said = [], Counter()
    for _ in range(count):
        path = rng.choice(paths)
        kept = path.read_bytes()
        mutation = mutate(path, rng)
        path.write_bytes(mutation.data)
        cache = folder / "other cache"
        result = judge(load, path, mutation, whole, cache)
        said[result if result in ("right", "refused") else "wrong"] += 1
        if result not in ("right", "refused"):
            found.append(f"{name}/{path.name}: {result}")
        path.write_bytes(kept)
        shutil.rmtree(cache, ignore_errors=True)
    return found, said


@pytest.mark.parametrize("name", ["mimic_cxr", "nih", "siim", "tbx11k", "rexgradient", "srrg_hub"])
def test_a_damaged_table_is_read_right_or_refused_by_name(name, tmp_path):
    found, said = faults(name, 8, seed=0, folder=tmp_path)
    assert found == [] and sum(said.values()) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_1500_damaged_tables_are_read_right_or_refused_by_name(name, tmp_path):
    found, said = faults(name, 69, seed=1, folder=tmp_path)  # times 22 sets
    assert found == []
    assert said["right"] and said["refused"]
