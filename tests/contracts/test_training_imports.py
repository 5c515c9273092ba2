"""Which room of the training may import which: verbs import rooms, hardly ever each other."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

TRAINING = Path(__file__).resolve().parents[2] / "training"
ARROWS = {
    # rooms
    "runs": set(),
    "calibration": set(),
    "figures": set(),
    "metrics": {"doubt"},
    "doubt": {"dataset", "inference"},
    "unlike": {"dataset", "inference"},
    "card": {"runs"},
    "config": set(),
    "inference": {"runs"},
    "dataset": {"config", "runs"},
    "hardware": {"config"},
    "distributed": {"config", "hardware"},
    "optim": {"config"},
    "models": {"config", "inference", "runs"},
    "quantize": {"models"},
    "latency": {"card", "hardware", "inference", "runs"},
    "distill": {"config", "dataset", "hardware", "inference", "runs"},
    "simclr": {"config", "dataset"},
    # verbs
    "train": {
        "config", "dataset", "distill", "distributed", "hardware", "models", "optim", "runs",
    },
    "pretrain": {"config", "dataset", "hardware", "models", "optim", "runs", "simclr"},
    "probe": {"config", "dataset", "hardware", "models", "runs", "simclr", "train"},
    "export": {
        "calibration", "config", "dataset", "doubt", "inference", "models", "quantize", "runs",
    },
    "evaluate": {
        "calibration", "config", "dataset", "figures", "inference", "latency", "metrics", "runs",
        "unlike",
    },
    "mining": {"config", "dataset", "inference", "runs"},
    "release": {"card", "runs"},
    "archive": {"runs"},
    "answer_probe": set(),
    "scenes": {"card", "config", "dataset", "inference", "runs"},
    "average": {"config", "dataset", "models", "runs", "train"},
    "requantize": {"config", "dataset", "export", "inference", "models", "runs"},
}  # fmt: skip


def module_imports() -> dict[str, set[str]]:
    """Each module of the training, without that word, with those that it imports."""
    found = {}
    for path in TRAINING.rglob("*.py"):
        name = ".".join(path.relative_to(TRAINING).with_suffix("").parts)
        modules = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{name}: a relative import"
                assert node.module != "training", f"{name}: name the module, not its package"
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
        found[name] = {m.removeprefix("training.") for m in modules if m.startswith("training.")}
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_import_is_an_arrow_and_every_arrow_is_needed() -> None:
    found: dict[str, set[str]] = {}
    for name, modules in module_imports().items():
        if name != "__init__":
            found.setdefault(room(name), set()).update(set(map(room, modules)) - {room(name)})
    assert found == ARROWS


def test_there_is_no_circle() -> None:
    TopologicalSorter(ARROWS).prepare()
    TopologicalSorter(module_imports()).prepare()
