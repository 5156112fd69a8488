"""What `minibloom bench` measures of generation itself: its time beside the forward passes, and the passes it saves."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

from .bench_worker import NEW, tokens


def overheads(config: dict[str, int], batch: int, do_sample: bool, repeats: int) -> list[float]:
    """The time of `generate` outside the forward passes, as a share of theirs, of so many runs after a first.

    Passes that a loop joins (`generation/ahead.py`) are one call of the model. In it tokens are chosen too, which by
    themselves take 1 us each, drawn 6: 0.2 to 2% of a small model's pass.
    """
    from .config import BloomConfig
    from .generation import compiled_draw
    from .layers import compiled_blocks
    from .models import BloomForCausalLM

    compiled_blocks.machine_code("float32")  # in memory before anything is measured, as in `bench_worker.py`
    compiled_draw.machine_code()

    inside = [0.0]

    call = BloomForCausalLM.__call__

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        out = call(*args, **kwargs)
        inside[0] += time.perf_counter() - start
        return out

    model, shares = BloomForCausalLM(BloomConfig(**config)), []
    more: dict[str, Any] = {"do_sample": True, "seed": 0} if do_sample else {}
    with patch.object(BloomForCausalLM, "__call__", timed):  # not a class of its own, which no loop goes on for
        for _ in range(repeats + 1):
            ids = tokens(config["vocab_size"], batch, 64)
            inside[0], start = 0.0, time.perf_counter()
            model.generate(ids, max_new_tokens=NEW, eos_token_id=[], **more)
            shares.append((time.perf_counter() - start - inside[0]) / inside[0])
    return shares[1:]


def lookup_passes() -> float:
    """Passes of plain greedy decoding over those with prompt lookup, where the shipped model repeats its prompt."""
    from .generation.generate import collect
    from .generation.prepare import prepare
    from .models import BloomForCausalLM
    from .tokenizer import BloomTokenizerFast

    model, tokenizer = BloomForCausalLM.from_pretrained(), BloomTokenizerFast.from_pretrained()
    article = (
        "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience"
    )
    passes = []
    ways: list[dict[str, Any]] = [{}, {"prompt_lookup_num_tokens": 10}]
    for more in ways:
        job = prepare(
            model, f"{article}\n{article[:24]}", tokenizer=tokenizer, max_new_tokens=NEW, eos_token_id=[], **more
        )
        ids = collect(job)
        passes.append((job.result.passes, ids.tolist()))
    (plain, text), (looked_up, same) = passes
    assert text == same
    return plain / looked_up
