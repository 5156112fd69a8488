"""How to train: the settings of a run, their defaults, and what they may be."""

from __future__ import annotations

import dataclasses
import reprlib
import sys
from dataclasses import dataclass
from typing import Any

from .errors import InputError
from .fields import described

LOWEST = {"seed": 0, "warmup_steps": 0, "context_length": 2}  # a single token has no next one to predict
MOST = sys.float_info.max  # a whole number beyond it cannot be reckoned with
ABOVE_0 = ("learning_rate", "clip")  # where 0 would have a model learn nothing


def _setting(default: float, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. The run reads steps * batch_size * accumulation * context_length tokens in all."""

    steps: int = _setting(2000, "updates of the parameters")
    batch_size: int = _setting(4, "rows in one forward and backward pass")
    whole_documents: bool = _setting(False, "begin each row at a document's start, not where the last one ended")
    accumulation: int = _setting(1, "passes that make one step together, as if they were one batch")
    recompute: bool = _setting(False, "compute the inside of each block twice instead of keeping it: less memory")
    context_length: int = _setting(256, "tokens in a row")
    learning_rate: float = _setting(2e-3, "learning rate at its peak; to fine-tune a model of the hub, about 2e-5")
    warmup_steps: int = _setting(200, "steps until the peak, on a straight line; a cosine goes down from there")
    final_rate: float = _setting(0.05, "share of the peak that is left at the end")
    weight_decay: float = _setting(0.01, "AdamW's, on matrices only")
    beta1: float = _setting(0.9, "AdamW's memory of gradients")
    beta2: float = _setting(0.95, "AdamW's memory of their squares")
    clip: float = _setting(1.0, "largest norm of all gradients together; a larger one is scaled down")
    seed: int = _setting(0, "of everything that is drawn")
    save_every: int = _setting(250, "steps between two saves")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "bool":
                if not isinstance(value, bool):
                    raise InputError(f"{field.name} is {value!r}, expected True or False.")
                continue
            whole = field.type == "int"
            low: float = LOWEST.get(field.name, 1) if whole else 0
            kinds = (int,) if whole else (int, float)
            above = field.name in ABOVE_0
            well = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= MOST
            if not well or (above and value == 0):
                number = "a whole number" if whole else "a number"
                expected = f"{number} {'above' if above else 'of at least'} {low}"
                raise InputError(f"{field.name} is {reprlib.repr(value)}, expected {expected}.")
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected a number below 1.")
        if self.final_rate > 1:
            raise InputError(f"final_rate is {self.final_rate!r}, expected a number of at most 1.")


TrainingSettings.__doc__ = f"{TrainingSettings.__doc__}\n" + described(
    {field.name: (field.metadata["help"], field.default) for field in dataclasses.fields(TrainingSettings)}
)

# What fine-tuning changes of these defaults, for every head. The head is new, and the layers below know something that
# a large step makes them forget. Measured on the shipped model, telling languages apart by words that were not in the
# examples: 49 % right at 1e-4, 65 % at 5e-4, 67 % at 1e-3, 60 % at 2e-3, the rate for a model that knows nothing yet
# (60 steps, means of 3 seeds, 4 languages). Larger models need less: the documentation's guides use 2e-5.
# Batches are larger, as a row has one label or a few, where in language modelling each token is one.
FINETUNING = {"steps": 300, "batch_size": 16, "learning_rate": 1e-3, "warmup_steps": 30, "save_every": 100}
