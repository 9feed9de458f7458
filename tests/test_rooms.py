"""What two rooms say apart, since neither imports the other, must be the same."""

import ast
import functools
from pathlib import Path

from modeling_cogaze.configuration_cogaze import CHEXBERT_OBSERVATIONS, VIEW_POSITIONS
from processing import processing_cogaze
from processing.datasets import records
from processing.tokenization import build_tokenizer

ROOT = Path(__file__).resolve().parents[1]


def test_view_positions_and_observations_agree():
    assert tuple(VIEW_POSITIONS) == processing_cogaze.VIEW_POSITIONS
    assert tuple(CHEXBERT_OBSERVATIONS) == records.CHEXBERT_OBSERVATIONS


# A room may import those that stand below it; "" is the shelf of commands.
ROOMS = {
    "runs": set(),
    "metrics": {"runs"},
    "data": {"runs"},
    "pretraining": {"data", "runs"},
    "reports": {"data", "metrics", "runs"},
    "reinforcement": {"reports", "data", "metrics", "runs"},
    "downstream": {"data", "metrics", "runs"},
    "evaluation": {"reports", "downstream", "data", "metrics", "runs"},
    "figures": {"evaluation", "reports", "downstream", "data", "metrics", "runs"},
    "hub": {"evaluation", "data", "metrics", "runs"},
    "guard": set(),
}
ROOMS["experiments"] = {*ROOMS} - {"hub"}
ROOMS[""] = {*ROOMS}
LIBRARY = ("modeling_cogaze", "processing", "training")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for room in LIBRARY for path in sorted((ROOT / room).rglob("*.py"))}


@functools.cache
def imports(module: str) -> set[str]:
    """Modules of the library that a module imports, wherever in it."""
    path, found = MODULES[module], set()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module]))
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES and name != module}


def test_packages_point_one_way():
    allowed = {"modeling_cogaze": set(), "processing": set(), "training": {"modeling_cogaze", "processing"}}
    for module in MODULES:
        package = module.split(".")[0]
        assert {name.split(".")[0] for name in imports(module)} - {package} <= allowed[package], module


def test_rooms_of_training_point_one_way():
    for module in MODULES:
        if not module.startswith("training.") or module in ("training.__main__", "training.training"):
            continue
        room = room_of(module)
        others = {room_of(name) for name in imports(module) if name.startswith("training.")} - {room, "package"}
        assert others <= ROOMS[room], f"{module} imports {sorted(others - ROOMS[room])}"
        if room == "":
            commands = {name for name in imports(module) if name.startswith("training.") and room_of(name) == ""}
            assert not commands, f"{module}, a command, imports {commands}"


def room_of(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1 or module in ("training.training", "training.__main__"):
        return "package"
    return parts[1] if parts[1] in ROOMS else ""


def test_no_modules_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]):
        assert module not in way, f"a circle: {' -> '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for name in sorted(imports(module)):
                if MODULES[name].name != "__init__.py":  # a package's own list of what it holds
                    visit(name, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_files_and_mains_stay_short():
    for path in [*MODULES.values(), *(ROOT / "spaces").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name == "main":
                assert node.end_lineno - node.lineno < 60, f"{path}: main"


def test_a_new_tokenizer_has_the_special_tokens_of_the_processor():
    tokenizer = build_tokenizer(["The lungs are clear."] * 4, 300)
    for token in ("[PAD]", "[SEP]", "[CLS]", "[INDICATION]", "[HISTORY]", "[FINDINGS]", "[TRANSCRIPT]"):
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1


def test_what_the_hub_carries_has_a_name_each():
    """Model and processor are saved into one folder, flat: of two files of one name, the second would be left."""
    models, processors = (
        {path.name for path in (ROOT / room).glob("*.py")} for room in ("modeling_cogaze", "processing")
    )
    assert models & processors == {"__init__.py"}
