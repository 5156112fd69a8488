"""The package as a whole: what importing it costs, what it must never import, and that data and imports go one way."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import minibloom

from . import tiny

PACKAGE = Path(minibloom.__file__).parent
ORACLES = {"torch", "transformers", "jax", "flax", "tensorflow"}
HEAVY = ORACLES | {
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "matplotlib",
    "cupy",
    "tqdm",
    "threadpoolctl",
    "numba",
}

# Ground floor first; modules in one line share a floor, and a module imports only from floors below its own.
FLOORS = [
    ["errors", "version"],
    ["backend", "fields"],
    ["display", "memory", "alignment", "buffers", "compiled_choice", "compiled_team", "compiled_tile"],
    ["files", "threads", "machine", "compiled"],
    ["config"],
    ["byte_pair", "encoding"],
    ["vocabulary"],
    ["tokenizer"],
    ["cuda"],
    ["layers"],
    ["losses", "cache", "precision"],
    ["outputs", "trace", "chunked_loss", "window_cache"],
    ["edits"],
    ["tensor_file"],
    ["checkpoint"],
    ["checkpoint_info", "streaming"],
    ["base"],
    ["models"],
    ["flax", "generation"],
    ["settings", "metrics", "lessons", "walk", "lens"],
    ["plots"],
    ["optimizer", "language_modeling", "examples"],
    ["training_state", "tasks"],
    ["training"],
    ["finetuning", "pretraining"],
    ["golden", "oracle"],
    ["comparison", "slips"],
    ["parity"],
    ["quantize"],
    ["bench_worker"],
    ["bench_cost"],
    ["bench_generation", "bench_notes"],
    ["bench"],
    ["cli_model"],
    ["cli_bench", "cli_generate", "cli_parity", "cli_train"],
    ["cli_score"],
    ["cli", "pretrained"],
    ["__main__"],
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
UPWARD = {("models", "generation")}  # so that `model.generate(...)` is there; imported when it is called
MAY_RUN_ORACLES = {  # file -> what inside it
    "bench_worker.py": ("Transformers", "CTranslate2"),
    "oracle.py": ("transformers_steps",),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Level (0 for absolute) and dotted name of everything that is imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
        elif isinstance(node, ast.ImportFrom):  # from . import x
            yield from ((node.level, alias.name) for alias in node.names)


def without_type_checking(tree: ast.Module) -> ast.Module:
    """`tree` without what only type checkers read."""
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    return tree


def test_importing_minibloom_imports_numpy_and_nothing_heavy():
    code = "import minibloom, sys; print(*sys.modules)"
    environment = os.environ | tiny.ENVIRONMENT
    loaded = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    top = {name.partition(".")[0] for name in loaded.stdout.split()}
    assert "numpy" in top
    assert not top & HEAVY


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_an_oracle(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = MAY_RUN_ORACLES.get(path.name, ())
    tree.body = [node for node in tree.body if getattr(node, "name", None) not in allowed]
    outside = {name.partition(".")[0] for level, name in imports(tree) if level == 0}  # `from .flax` is minibloom's own
    assert not outside & ORACLES


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_floors_below(path):
    inside = path.relative_to(PACKAGE).with_suffix("").parts  # ("layers", "linear"), ("cli",), ("__init__",)
    own = inside[0]
    if own == "__init__":
        return
    assert own in FLOOR, f"give {own} a floor in {__file__}"
    for level, name in imports(without_type_checking(ast.parse(path.read_text(encoding="utf-8")))):
        if level == 0 and not name.startswith("minibloom"):
            continue
        if level == 0:
            name, level = name.removeprefix("minibloom").lstrip("."), len(inside)
        if level < len(inside):  # of the same folder, as layers/attention.py imports layers/linear.py
            continue
        other = name.partition(".")[0]
        assert FLOOR[other] < FLOOR[own] or (own, other) in UPWARD, f"{own} imports {other}, which stands above it"


def test_a_name_of_the_lower_floors_names_one_thing():
    """A reader who meets `blocks` need not look which one it is. (A kernel has the name of what it computes.)"""
    found: dict[str, str] = {}
    for path in PACKAGE.glob("*.py"):
        if FLOOR.get(path.stem, len(FLOORS)) < FLOOR["checkpoint"]:
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    assert found.setdefault(node.name, path.stem) == path.stem, node.name


@pytest.mark.parametrize("folder", ["cuda", "layers", "generation"])
def test_no_file_of_a_folder_imports_one_that_imports_it(folder):
    graph = {
        path.stem: {n for level, n in imports(ast.parse(path.read_text(encoding="utf-8"))) if level == 1}
        for path in (PACKAGE / folder).glob("*.py")
    }
    while graph:
        ground = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert ground, f"a circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in ground}


def test_the_package_is_typed_and_all_it_names_is_there():
    assert (PACKAGE / "py.typed").exists()
    assert all(hasattr(minibloom, name) for name in minibloom.__all__)


def test_each_module_is_an_attribute_of_the_package_once_it_is_asked_for():
    code = (
        "import minibloom, sys; before = set(sys.modules)\n"
        "for name in dir(minibloom): getattr(minibloom, name)\n"
        "print(*{n for n in sys.modules if n.startswith('minibloom.')} - before)\n"
        "assert minibloom.walk is minibloom.walk.__globals__['walk'] and minibloom.plots.attention"
    )
    environment = os.environ | tiny.ENVIRONMENT
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    new = {*ran.stdout.split()}
    assert {"minibloom.plots", "minibloom.parity", "minibloom.quantize", "minibloom.generation"} <= new
    modules_here = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    assert modules_here <= {*dir(minibloom)}


def test_help_on_the_package_does_without_what_is_not_installed():
    code = "import sys; sys.modules['matplotlib'] = None; import minibloom; help(minibloom); minibloom.plots"
    environment = os.environ | tiny.ENVIRONMENT
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "BloomForCausalLM" in ran.stdout and "pip install" in ran.stderr.splitlines()[-1]


def test_what_the_package_does_not_have_is_said_and_what_was_meant():
    with pytest.raises(AttributeError, match=r"minibloom has no 'plot'. Did you mean 'plots'\?"):
        minibloom.plot  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'BlomModel'"):
        from minibloom import BlomModel  # noqa: F401
    assert not hasattr(minibloom, "__main__")


def test_what_an_error_says_to_install_is_what_an_extra_installs():
    """By names that an index has: it has no minibloom, which is installed from its repository."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {re.split("[<>=;]", one)[0] for some in project["optional-dependencies"].values() for one in some}
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    told = [words for source in sources for words in re.findall(r'pip install ([^.,\n"{)]+)', source)]
    assert len(told) >= 5
    for words in told:
        names = [word for word in shlex.split(words) if not word.startswith("-")]  # without pip's own options
        assert {re.split("[<>=]", name)[0] for name in names} <= known, words
