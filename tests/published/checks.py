"""How minibloom is held against published figures: a checkpoint or a tokenizer, and one entry of `figures.py` each.

Every check is what a user would do: load, call, generate, tokenize. It fails by `assert`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from minibloom import BloomForCausalLM, BloomTokenizerFast
from minibloom.tensor_file import from_bfloat16, to_bfloat16

Figure = Mapping[str, Any]

# --- the tokenizer ---


def check_ids(tokenizer: BloomTokenizerFast, cases: list[Figure]) -> None:
    """Each text gives its ids, and they give the text."""
    assert [tokenizer(case["text"])["input_ids"] for case in cases] == [case["ids"] for case in cases]
    assert [tokenizer.decode(case["ids"]) for case in cases] == [case["text"] for case in cases]


def check_vocabulary(tokenizer: BloomTokenizerFast, vocabulary: Mapping[str, int]) -> None:
    """The tokens have these ids."""
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in vocabulary} == vocabulary


def check_prefix_space(folder: str | Path, text: str) -> None:
    """With add_prefix_space the text is read as if a space stood before it, and other ids come out."""
    plain, prefixed = (BloomTokenizerFast.from_pretrained(folder, add_prefix_space=flag) for flag in (False, True))
    assert prefixed.encode(text) == plain.encode(" " + text) != plain.encode(text)


# --- the embedding and what comes out, on one sequence ---


def rounded(x: numpy.ndarray, dtype: str) -> numpy.ndarray:
    """The numbers of `dtype` nearest to `x`, as float64."""
    if dtype == "bfloat16":
        return from_bfloat16(to_bfloat16(x)).astype("float64")
    return x.astype(dtype).astype("float64")


def check_embeddings(model: BloomForCausalLM, figure: Figure, dtype: str) -> None:
    """Minima, maxima, means and sum of rows of the embedding matrix in `dtype`, exactly.

    A mean is rounded once, from the mean of the rounded numbers: so torch computes it in all three dtypes, for the
    numbers are few and of few digits, so that not even float32 rounds on the way.
    """
    which = figure["dtypes"].index(dtype)
    assert model.config.dtype == figure["stored"]
    matrix = model.params["word_embeddings.weight"]
    for row in figure["rows"]:
        x = rounded(matrix[row["id"]], dtype)
        assert (x.min(), x.max()) == (row["min"], row["max"])
        assert rounded(x.mean(), dtype) == row["mean"][which]
    total = rounded(matrix[figure["input_ids"]], dtype).sum()
    assert rounded(total, dtype) == figure["sum"][which]


def check_normed_embeddings(model: BloomForCausalLM, figure: Figure) -> None:
    """Mean, minimum and maximum behind the embedding's LayerNorm, to one place: the figures are bfloat16's."""
    out = model([figure["input_ids"]], output_hidden_states=True)
    normed = dict(zip(figure["input_ids"], out.hidden_states[0][0], strict=True))  # id -> [E]
    for row in figure["rows"]:
        x = normed[row["id"]]
        for got, published in zip((x.mean(), x.min(), x.max()), row["normed"], strict=True):
            assert abs(got - published) < 0.05


def check_outputs(model: BloomForCausalLM, figure: Figure) -> None:
    """The last hidden state and the logits, as far as their figures, which are bfloat16's, reach."""
    out = model([figure["input_ids"]], output_hidden_states=True)
    last, published = out.hidden_states[-1][0], figure["last_hidden_state"]
    assert abs(last.mean() - published["mean"]) < 0.0005  # three places, as their test has it on a CPU
    step = 2**-6  # of bfloat16's numbers from 2 to 4: two of them, since theirs were rounded in every layer
    assert abs(last[0].min() - published["first_min"]) <= 2 * step
    assert abs(last[0].max() - published["first_max"]) <= 2 * step
    halves = numpy.split(out.logits, [figure["split"]], axis=-1)
    for half, mean in zip(halves, figure["means_of_logits"], strict=True):
        assert abs(half.mean(dtype="float64") - mean) < 5e-7  # six places


def check_first_numbers(model: BloomForCausalLM, figure: Figure) -> None:
    """The first numbers of the last hidden state, as near as keras-hub holds itself to them."""
    out = model([figure["input_ids"]], output_hidden_states=True)
    expected = figure["last_hidden_state"]
    got = out.hidden_states[-1][0, 0, : len(expected)]
    assert numpy.allclose(got, expected, rtol=0.01, atol=0.01)


def check_cache(model: BloomForCausalLM, figure: Figure) -> None:
    """The shapes of keys and values in the layout of 2023."""
    past = model([figure["input_ids"]], use_cache=True).past_key_values.to_tuple("documented")
    assert [[list(x.shape) for x in layer] for layer in past] == figure["layers"] * [figure["shapes"]]


# --- generation ---


def greedy(
    model: BloomForCausalLM, tokenizer: BloomTokenizerFast, prompts: list[str], length: int
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Prompts, padded on the left, and their continuations `[B, length]`; and the prompts' attention mask."""
    inputs = tokenizer(prompts, padding=True, padding_side="left", return_tensors="np")
    new = length - inputs["input_ids"].shape[1]
    return model.generate(**inputs, max_new_tokens=new), inputs["attention_mask"]


def check_generation(model: BloomForCausalLM, tokenizer: BloomTokenizerFast, figure: Figure) -> None:
    """Greedy decoding gives these texts, or tokens, or ids."""
    rows, _ = greedy(model, tokenizer, figure["prompts"], figure["length"])
    if "ids" in figure:
        assert rows.tolist() == figure["ids"]
    elif "tokens" in figure:
        assert [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in rows] == figure["tokens"]
    else:
        assert tokenizer.batch_decode(rows, skip_special_tokens=True) == figure["texts"]


def check_batch(model: BloomForCausalLM, tokenizer: BloomTokenizerFast, figure: Figure) -> None:
    """Each prompt of a batch goes on as it does alone, and so equal prompts alike."""
    prompts, length = figure["prompts"], figure["length"]
    rows, mask = greedy(model, tokenizer, prompts, length)
    for prompt, row, padding in zip(prompts, rows, (mask == 0).sum(1), strict=True):
        alone, _ = greedy(model, tokenizer, [prompt], length - padding)
        assert row[padding:].tolist() == alone[0].tolist()


def check_log_probabilities(model: BloomForCausalLM, figure: Figure) -> None:
    """Every log-probability lies within 0.1 of those published for it.

    The server's replies to one and the same prompt, alone, in a batch and in two shards, differ by up to 0.06 at most
    tokens and by 0.2 at one: so far is float16 on a GPU from itself. Hence their range, and 0.1 beyond it.
    """
    ids, prompt = figure["ids"], figure["prompt"]
    if new := len(ids) - prompt:
        assert model.generate([ids[:prompt]], max_new_tokens=new)[0].tolist() == ids
    logits = model([ids]).logits[0].astype("float64")  # [S, V]
    logits -= logits.max(-1, keepdims=True)
    logs = logits - numpy.log(numpy.exp(logits).sum(-1, keepdims=True))
    got = logs[numpy.arange(len(ids) - 1), ids[1:]]
    replies = numpy.array(figure["replies"])  # [replies, tokens]
    got = got[-replies.shape[1] :]
    assert (got >= replies.min(0) - 0.1).all() and (got <= replies.max(0) + 0.1).all()
