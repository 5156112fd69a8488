"""minibloom: BLOOM, written from scratch as array code over NumPy and CuPy, forward and backward.

from minibloom import BloomForCausalLM, BloomTokenizerFast

tokenizer = BloomTokenizerFast.from_pretrained()  # the small BLOOM that ships with the package
model = BloomForCausalLM.from_pretrained()
out = model(**tokenizer("All human beings are", return_tensors="np"))
"""

from .backend import to_numpy
from .cache import Cache, StaticCache
from .config import BloomConfig
from .edits import ablate, patch, replace, scale
from .errors import InputError
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
