"""minibloom: BLOOM, written from scratch as array code over NumPy and CuPy, forward and backward.

from minibloom import BloomForCausalLM, BloomTokenizerFast

tokenizer = BloomTokenizerFast.from_pretrained()  # the small BLOOM that ships with the package
model = BloomForCausalLM.from_pretrained()
out = model(**tokenizer("All human beings are", return_tensors="np"))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .backend import to_numpy
from .cache import Cache, StaticCache
from .config import BloomConfig
from .edits import ablate, patch, replace, scale
from .errors import InputError, suggest
from .finetuning import finetune, predict
from .flax import FlaxBloomForCausalLM, FlaxBloomModel
from .models import (
    BloomForCausalLM,
    BloomForQuestionAnswering,
    BloomForSequenceClassification,
    BloomForTokenClassification,
    BloomModel,
)
from .tokenizer import BloomTokenizerFast
from .trace import Trace, step_names
from .version import __version__
from .walk import Walk, walk
from .window_cache import WindowCache

AutoTokenizer = BloomTokenizerFast  # the documentation's examples import it under this name

__all__ = [
    "AutoTokenizer",
    "BloomConfig",
    "BloomForCausalLM",
    "BloomForQuestionAnswering",
    "BloomForSequenceClassification",
    "BloomForTokenClassification",
    "BloomModel",
    "BloomTokenizerFast",
    "Cache",
    "FlaxBloomForCausalLM",
    "FlaxBloomModel",
    "InputError",
    "StaticCache",
    "Trace",
    "Walk",
    "WindowCache",
    "__version__",
    "ablate",
    "finetune",
    "patch",
    "predict",
    "replace",
    "scale",
    "step_names",
    "to_numpy",
    "walk",
]


def _parts() -> list[str]:
    """The names of the modules and packages in this one."""
    from pkgutil import iter_modules

    return [part.name for part in iter_modules(__path__) if not part.name.startswith("_")]


if not TYPE_CHECKING:  # which would take any name for one that is there

    def __getattr__(name: str) -> Any:  # called only for what is not there
        """A module of the package, as `minibloom.plots`, imported when it is first asked for."""
        if name.startswith("_"):  # what tools ask any object for
            raise AttributeError(name)
        if name not in _parts():
            raise AttributeError(f"minibloom has no {name!r}.{suggest(name, __dir__())}")
        try:
            return import_module(f"{__name__}.{name}")
        except InputError as error:  # plots without Matplotlib. As help(minibloom) expects it, which asks for all
            raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    return sorted({*__all__, *_parts()})
