"""One command line: its commands, its version, and what it says of names of before."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import training
from training.__main__ import commands, main, usage
from training.draw import main as draw
from training.pretraining.training import pretrain
from training.runs import renamed
from training.runs.command_line import CommandParser

ROOT = Path(__file__).resolve().parents[3]


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=own | environment, capture_output=True, text=True, timeout=300
    )


def test_help_has_a_line_for_each_command_and_imports_no_torch(tmp_path):
    code = "import sys, training.__main__ as m; m.main(['--help']); sys.exit('torch' in sys.modules)"
    found = run("-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    for name in commands():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 4


@pytest.mark.parametrize("name", commands())
def test_each_command_has_a_main(name):
    module = __import__(commands()[name], fromlist=["main"])
    assert callable(module.main)


def test_a_command_runs_as_a_file_from_anywhere_and_does_not_hide_a_library(tmp_path):
    found = run(str(ROOT / "training" / "evaluate_reports.py"), "--help", cwd=tmp_path)
    assert found.returncode == 0 and "--predictions" in found.stdout
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'training')!r}); import training.runs, evaluate;"
        "print(training.__file__); print(evaluate.__file__)"
    )
    package, library = run("-c", code, cwd=tmp_path).stdout.split()
    assert Path(package) == ROOT / "training" / "__init__.py"
    assert not Path(library).is_relative_to(ROOT / "training")


@pytest.mark.parametrize("command", [["-m", "training.pretrain"], [str(ROOT / "training" / "pretrain.py")]])
def test_without_its_dependencies_it_says_what_to_install(tmp_path, command):
    found = run("-S", *command, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert "torch" in found.stderr and "pip install" in found.stderr


def test_the_version_is_one_fact(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["cogaze", training.__version__]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == training.__version__


def test_an_old_command_is_told_its_new_name(tmp_path, capsys):
    assert main(["evaluate_all", "--data", "{}"]) == 2
    assert "cogaze evaluate" in capsys.readouterr().err
    assert main(["nonsense"]) == 2
    found = run("-m", "training.evaluate_all", "--model", "x", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert "cogaze evaluate" in found.stderr


def test_every_new_name_is_there():
    for old, new in renamed.MODULES.items():
        words = new.split()
        if words[0] == "cogaze":
            assert words[1] in usage(), f"{old} -> {new}"
        else:
            assert (ROOT / Path(*words[2].split("."))).with_suffix(".py").is_file(), f"{old} -> {new}"
    for old in ("pretrain_phantom", "finetune_segmentation_rsna", "report_llama_srrg", "demo", "prompts", "ablations"):
        assert (ROOT / renamed.new_config(f"training/configs/{old}.yaml")).is_file()
    assert renamed.new_config("own.yaml") is None


@pytest.mark.parametrize("flags", [["--init_from", "x"], ["--init_from=x"]])
def test_an_old_flag_is_told_its_new_name(flags, tmp_path):
    with pytest.raises(ValueError, match="--init_from: it is called --checkpoint now"):
        pretrain([*flags, "--output_dir", str(tmp_path)])
    (tmp_path / "old.yaml").write_text("init_from: x\n")
    with pytest.raises(ValueError, match="'init_from': it is called checkpoint now"):
        pretrain(["--config", str(tmp_path / "old.yaml"), "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="configs/pretrain_phantom.yaml; it is training/configs/pretrain/phantom.yaml"):
        pretrain(["--config", "training/configs/pretrain_phantom.yaml", "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="--out: it is called --output_dir now"):
        draw(["gaze", "--checkpoint", "x", "--out", "gaze.png"])


def test_a_flag_that_a_command_has_is_no_old_one():
    parser = CommandParser()
    parser.add_argument("--to")
    assert parser.parse_args(["--to", "parquet"]).to == "parquet"
    with pytest.raises(ValueError, match="--out: "):
        parser.parse_args(["--out", "x"])


def test_a_command_of_argparse_alone_tells_an_old_flag_where_it_takes_none(capsys):
    shards = ["datasets", "convert", "openi", "no-such-folder", "--output_dir", "shards"]
    assert main([*shards, "--to", "parquet"]) == 1 and "no-such-folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--init_from: it is called --checkpoint now"):
        main([*shards, "--init_from", "x"])
