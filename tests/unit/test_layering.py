"""A package imports only from layers below its own, never sideways (DESIGN: Layout)."""

import ast
from pathlib import Path

import boxwright

ROOT = Path(boxwright.__file__).parent
LAYERS: list[set[str]] = [
    {"errdefs", "config", "confined", "trace", "client", "plugins", "linux", "specs", "types", "__init__"},
    {"db", "events", "libcontainer", "trees"},
    {"storage", "network", "volumes", "logger"},
    {"launcher", "runtime", "images"},
    {"execdriver"},
    {"engine"},
    {"builder"},
    {"api"},
    {"embed"},
    {"cli", "doctor", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """Top-level packages of boxwright that the file names in an import, wherever in the file it stands."""
    found = set()
    package = ("boxwright", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            module = base + (node.module or "")
            names = [f"{module.rstrip('.')}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("boxwright.")}
    return found - {"__version__"}


def test_every_package_has_a_layer() -> None:
    packages = {p.stem for p in ROOT.iterdir() if (p.is_dir() and any(p.glob("*.py"))) or p.suffix == ".py"}
    assert packages - {"__pycache__"} <= set(LEVEL)


def test_imports_go_down() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for other in imports(path):
            if other != own and not (LEVEL[other] < LEVEL[own] or LEVEL[own] == LEVEL[other] == 0):
                wrong.append(f"{path.relative_to(ROOT)} (layer {LEVEL[own]}) imports {other} (layer {LEVEL[other]})")
    assert not wrong, "\n".join(sorted(wrong))


def test_package_root_imports_nothing() -> None:
    assert not [
        n
        for n in ast.walk(ast.parse((ROOT / "__init__.py").read_bytes()))
        if isinstance(n, ast.Import | ast.ImportFrom)
    ]
