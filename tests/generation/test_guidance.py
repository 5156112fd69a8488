"""Guidance against its definition, without caches; what it refuses. `parity` holds it to the oracle."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibloom import BloomConfig, InputError
from minibloom.generation.filters import log_softmax

from ..strategies import models, random_model, seeds

MODEL = random_model(BloomConfig(vocab_size=11, hidden_size=8, n_layer=2, n_head=2), 1)


@given(model=models(), seed=seeds, scale=st.floats(-2, 4).filter(lambda x: x != 1), negative=st.booleans())
@settings(max_examples=15)
def test_each_token_is_the_likeliest_by_the_formula_and_each_row_as_if_alone(model, seed, scale, negative):
    rng = numpy.random.default_rng(seed)
    V = model.config.vocab_size
    prompts, others = ([rng.integers(0, V, n).tolist() for n in sizes] for sizes in ((3, 1), (2, 4)))
    asked = {"negative_prompt_ids": others} if negative else {}
    out = model.generate(
        prompts, guidance_scale=scale, max_new_tokens=4, eos_token_id=0, pad_token_id=0, **asked
    )[:, 3:].tolist()  # fmt: skip
    for row, (text, other) in enumerate(zip(prompts, others, strict=True)):
        other = other if negative else text[-1:]
        for chosen in out[row]:
            p, u = (log_softmax(model([ids], use_cache=False).logits[0, -1]) for ids in (text, other))
            guided = u + scale * (p - u)
            assert guided[chosen] >= guided.max() - 1e-9
            if chosen == 0:
                break
            text, other = [*text, chosen], [*other, chosen]


def test_what_guidance_cannot_follow_is_named():
    for asked, says in (
        ({"num_beams": 2}, "num_beams is 2, expected 1"),
        ({"do_sample": True, "num_return_sequences": 2}, "num_return_sequences is 2, expected 1"),
        ({"prompt_lookup_num_tokens": 2}, "speculation is asked for"),
        ({"assistant_model": MODEL}, "speculation is asked for"),
        ({"negative_prompt_ids": [[1], [2]]}, "negative_prompt_ids has 2 rows, the prompts 1"),
        ({"negative_prompt_ids": [[11]]}, "negative_prompt_ids: input_ids holds 11"),
        ({"negative_prompt_attention_mask": [[1]]}, "negative_prompt_ids is not: give both"),
        ({"guidance_scale": 1, "negative_prompt_ids": [[1]]}, "guidance_scale is 1: nothing is guided"),
    ):
        with pytest.raises(InputError, match=says):
            MODEL.generate([[1, 2]], **{"guidance_scale": 2.0, **asked})
