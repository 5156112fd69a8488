"""Makes lessons/goldens.safetensors: what transformers computes with the shipped model, which lessons assert against.

    python -m tests.make_lesson_goldens          # in the root of the repository; needs the extra `parity`

The form is that of `minibloom/golden.py`: the ids into which its tokenizer cuts `PROMPT`, the steps of the pass over
them, all in block 0 and those between blocks elsewhere, attention in every block, logits, loss and gradients, those of
more than 4,093 numbers thinned to every 101st. The oracle computes in float64; the numbers are stored as float32.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy

from minibloom.files import SHIPPED
from minibloom.golden import Steps, load, run, write
from minibloom.oracle import check_oracle, transformers_steps

from .make_goldens import thinned

GOLDENS = Path(__file__).parents[1] / "lessons" / "goldens.safetensors"
PROMPT = "All human beings are born free"
KEPT = r"input_ids|attention_mask|labels|word_.*|alibi|h\.0\..*|h\.\d+|h\.\d+\.self_attention\.weights|ln_f|logits|loss"


def make() -> Steps:
    from transformers import AutoTokenizer

    model, ids = load(dtype="float64"), AutoTokenizer.from_pretrained(SHIPPED)(PROMPT)["input_ids"]
    given = run(model, [ids])
    call = {name: given[name] for name in ("input_ids", "attention_mask", "labels")}
    theirs = call | transformers_steps(SHIPPED, type(model).__name__, model.head, call, "float64", gradients=True)
    arrays = {}
    for name, x in theirs.items():
        if name.startswith("gradient/"):
            arrays[name] = thinned(x).astype("float32")
        elif re.fullmatch(KEPT, name):
            hidden = float(numpy.finfo("float32").min)  # the score of a key that is not seen, in the precision stored
            arrays[name] = numpy.maximum(x, hidden).astype("float32") if x.dtype == "float64" else x
    about = {"format": 1, "by": check_oracle(), "command": "python -m tests.make_lesson_goldens", "prompts": [PROMPT]}
    return Steps(arrays, about)


if __name__ == "__main__":
    steps = make()
    write(GOLDENS, steps)
    print(f"{GOLDENS}: {len(steps)} arrays, {sum(numpy.asarray(x).nbytes for x in steps.values()):,} bytes")
