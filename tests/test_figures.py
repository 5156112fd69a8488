"""Figures: each picture in the tree is what the code draws today, and README shows no other."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy
import pytest
from PIL import Image  # which Matplotlib brings in

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("draw", FIGURES / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    script.draw(folder)
    return folder


def drawn_by(path: Path) -> str:
    """The version of Matplotlib that drew a picture."""
    return re.search(r"version([\d.]+)", Image.open(path).info["Software"])[1]


def difference(first: Path, second: Path) -> float:
    """The mean difference of two pictures' brightness, 0 to 1; 1 where one is larger."""
    a, b = (numpy.asarray(Image.open(path).convert("L")) / 255 for path in (first, second))
    return float(numpy.abs(a - b).mean()) if a.shape == b.shape else 1.0


def test_no_picture_is_stale(script, drawn):
    for name in script.PICTURES:
        ours, now = FIGURES / f"{name}.png", drawn / f"{name}.png"
        if drawn_by(ours) != drawn_by(now):
            pytest.skip(
                f"figures are drawn by Matplotlib {drawn_by(ours)}, which places things otherwise than this one"
            )
        stale = difference(ours, now) > 1e-4
        assert not stale, f"figures/{name}.png is not what the code draws: run python figures/draw.py"


def test_the_comparison_sees_a_small_change(drawn, tmp_path):
    """A few words of an axis blanked out."""
    image = Image.open(drawn / "loss.png").convert("RGB")
    image.paste((255, 255, 255), (0, image.height - 20, image.width, image.height))
    image.save(tmp_path / "loss.png")
    assert difference(drawn / "loss.png", tmp_path / "loss.png") > 1e-4


def test_pictures_and_pages_know_each_other(script):
    shown = set(re.findall(r"figures/(\w+)\.png", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert shown == set(script.PICTURES) == {path.stem for path in FIGURES.glob("*.png")}
