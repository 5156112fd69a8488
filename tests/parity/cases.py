"""What the parity tests draw: a model with random parameters, and a call of every kind that is documented."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy
from hypothesis import strategies as st

from minibloom import (
    BloomConfig,
    BloomForCausalLM,
    BloomForQuestionAnswering,
    BloomForSequenceClassification,
    BloomForTokenClassification,
)

from .. import fast_paths

HEADS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 40, 112)  # 112 is the 176B model's; half of them no power of two
MASKS = ("none", "left", "right", "holes", "one token")
LABELS = ("all", "tokens", "half", "one")  # which positions count
TASKS = {
    "single_label_classification": BloomForSequenceClassification,
    "multi_label_classification": BloomForSequenceClassification,
    "regression": BloomForSequenceClassification,
    "tokens": BloomForTokenClassification,
    "answers": BloomForQuestionAnswering,
}


@dataclass
class Case:
    """A model and the arguments of one call."""

    config: BloomConfig
    seed: int
    gain: float
    inputs: dict[str, Any] = field(repr=False)  # input_ids or inputs_embeds; maybe attention_mask, labels
    pieces: list[int] = field(default_factory=list)  # lengths that add up to S: the same call in steps, with a cache
    kind: type = BloomForCausalLM

    def model(self, dtype: str) -> Any:
        """A minibloom model with random parameters."""
        model = self.kind(self.config, dtype=dtype)
        model.params = random_params(model.shapes(self.config), self.seed, self.gain, dtype)
        for name in biases_dropped_by_the_oracle(self.config):
            model.params[name][:] = 0
        return model

    def call(self, dtype: str) -> dict[str, Any]:
        """The arguments of the whole call, embeddings in `dtype`, with all returned that the paths taken now have."""
        inputs = {name: x.astype(dtype) if x.dtype.kind == "f" else x for name, x in self.inputs.items()}
        return {**inputs, "output_hidden_states": True, "output_attentions": not fast_paths.taken()}

    def steps(self, dtype: str) -> Iterator[dict[str, Any]]:
        """The arguments of each piece's call: new positions, and the mask over past and new ones."""
        end = 0
        for piece in self.pieces:
            start, end = end, end + piece
            call = self.call(dtype)
            for name in ("labels", "start_positions", "end_positions"):
                call.pop(name, None)
            for name, x in call.items():
                if name == "attention_mask":
                    call[name] = x[:, :end]
                elif name.startswith("input"):
                    call[name] = x[:, start:end]
            if piece == 1 and fast_paths.taken():
                call["output_hidden_states"] = False  # they are not there to be shown: `one_token.py`
            yield {**call, "use_cache": True}

    @property
    def head(self) -> str:
        """What the head's parameters are called."""
        return self.kind.head  # type: ignore[attr-defined]

    @property
    def mask(self) -> numpy.ndarray:
        """Which positions are tokens `[B, S]`."""
        first = next(iter(self.inputs.values()))
        return self.inputs.get("attention_mask", numpy.ones(first.shape[:2], "int64"))


def biases_dropped_by_the_oracle(config: BloomConfig) -> list[str]:
    """The biases that transformers leaves out: see `test_quirks.py`."""
    names = ("self_attention.dense.bias", "mlp.dense_4h_to_h.bias")
    drops = config.slow_but_exact and config.pretraining_tp > 1
    return [f"h.{i}.{name}" for i in range(config.n_layer) for name in names] if drops else []


def random_params(shapes: dict[str, tuple[int, ...]], seed: int, gain: float, dtype: str) -> dict[str, Any]:
    """Parameters with which every bias and norm counts, and attention is far from uniform.

    gain: standard deviation of queries, keys and other projections; scores, before ALiBi, have its square.
    """
    rng = numpy.random.default_rng(seed)
    params = {}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape, dtype="float32")
        if len(shape) == 2:
            x *= (1.0 if name in ("word_embeddings.weight", "lm_head.weight") else gain) / shape[1] ** 0.5
        else:
            x = 0.3 * x + name.endswith(("norm.weight", "ln_f.weight"))
        params[name] = x.astype(dtype)
    return params


def call_of(B: int, S: int, seed: int = 1, mask: Any = None, **config: Any) -> Case:
    """A case with these sizes, all labels counted."""
    fields = {"vocab_size": 23, "hidden_size": 24, "n_layer": 2, "n_head": 6, **config}
    ids = numpy.random.default_rng(seed).integers(0, fields["vocab_size"], (B, S))
    inputs = {"input_ids": ids, "labels": ids, **({} if mask is None else {"attention_mask": mask})}
    return Case(BloomConfig(**fields), seed, 1.0, inputs)


@st.composite
def cases(
    draw: st.DrawFn,
    wild: bool = False,
    shortest: int = 1,
    longest: int = 40,
    n_heads: tuple[int, ...] = HEADS,
    **fields: Any,
) -> Case:
    """A random case, of a length and with a number of heads from those given; `fields` fix some of the configuration.

    A wild one also has what no float32 survives to five digits: scores of 50 and more, layer norms over three
    numbers, an epsilon of 1e-12, gradients that are sums of next to nothing. There transformers in float32 is
    further from transformers in float64 than float32's tolerance, so wild cases are for float64.
    """
    heads = draw(st.sampled_from(n_heads))
    narrowest, widest = (3, 48) if wild else (16, 64)
    E = heads * draw(st.integers(-(-narrowest // heads), max(1, widest // heads)))
    config = BloomConfig(
        **{
            "vocab_size": draw(st.integers(1 if wild else 10, 60)),
            "hidden_size": E,
            "n_layer": draw(st.integers(1, 4)),
            "n_head": heads,
            "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-3, *([1e-12, 1.0] if wild else [])])),
            "apply_residual_connection_post_layernorm": draw(st.booleans()),
            "slow_but_exact": draw(st.booleans()),
            "pretraining_tp": draw(st.sampled_from([n for n in (1, 2, 3, 4, 8) if E % n == 0])),
            "tie_word_embeddings": draw(st.sampled_from([True, True, False])),
            **fields,
        }
    )
    gain = draw(st.sampled_from([0.5, 1.0, *([2.0, 4.0] if wild else [])]))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = numpy.random.default_rng(seed)
    B, S = draw(st.integers(1, 3)), draw(st.integers(shortest, longest))

    inputs: dict[str, Any] = {}
    if draw(st.sampled_from(["ids", "ids", "ids", "embeddings"])) == "ids":
        inputs["input_ids"] = rng.integers(0, config.vocab_size, (B, S))
    else:
        inputs["inputs_embeds"] = rng.standard_normal((B, S, E), dtype="float32")
    if draw(st.sampled_from([True, True, True, False])):
        inputs["attention_mask"] = numpy.stack([padding(draw(st.sampled_from(MASKS)), S, rng) for _ in range(B)])
    if S > 1:
        inputs["labels"] = rng.integers(0, config.vocab_size, (B, S))
        inputs["labels"][~counted(draw(st.sampled_from(LABELS)), inputs, rng)] = -100
    cuts = sorted(draw(st.sets(st.integers(1, S - 1), max_size=2))) if S > 1 else []
    return Case(config, seed, gain, inputs, numpy.diff([0, *cuts, S]).tolist())


@st.composite
def head_cases(draw: st.DrawFn, task: str, **fields: Any) -> Case:
    """A random case of a classifier, with labels of which at least one counts.

    `fields` are those of `cases`. Padding has the pad token's id, or any; the pad token may stand among the tokens.
    """
    named = draw(st.booleans())  # whether config names the kind of problem
    count = draw(st.integers(2 if task in ("single_label_classification", "tokens") else 1, 5))  # of one, one is sure
    if not named and task in ("regression", "multi_label_classification"):
        count = 1 if task == "regression" else max(2, count)
    fields = {"num_labels": count, "problem_type": task if named and task in list(TASKS)[:3] else None, **fields}
    shortest = max(fields.pop("shortest", 1), 2 if task == "answers" else 1)
    case = draw(cases(shortest=shortest, **fields))
    case.kind, config, inputs = TASKS[task], case.config, case.inputs
    inputs.pop("labels", None)
    rng = numpy.random.default_rng(case.seed + 1)
    B, S = case.mask.shape
    pads = st.integers(0, config.vocab_size - 1)
    config.pad_token_id = draw(pads if B > 1 else st.none() | pads)
    if "input_ids" in inputs and config.pad_token_id is not None and draw(st.booleans()):
        inputs["input_ids"][case.mask == 0] = config.pad_token_id

    row = rng.integers(B)  # one that counts
    if task == "single_label_classification":
        inputs["labels"] = rng.integers(0, count, B)
        inputs["labels"][(rng.random(B) < draw(st.sampled_from([0, 0.5]))) & (numpy.arange(B) != row)] = -100
    elif task == "multi_label_classification":
        inputs["labels"] = rng.random((B, count)).round(draw(st.sampled_from([0, 2])))
    elif task == "regression":
        inputs["labels"] = rng.standard_normal((B,) if count == 1 and draw(st.booleans()) else (B, count))
    elif task == "tokens":
        inputs["labels"] = rng.integers(0, count, (B, S))
        ignored = rng.random((B, S)) < draw(st.sampled_from([0, 0.5, 1]))
        ignored[row, rng.integers(S)] = False
        inputs["labels"][ignored] = -100
    else:
        for name in ("start_positions", "end_positions"):
            inputs[name] = rng.integers(-2, S + 2, (B, 1) if draw(st.booleans()) else B)
            inputs[name][row] = rng.integers(-2, S)
    return case


def padding(kind: str, length: int, rng: numpy.random.Generator) -> numpy.ndarray:
    """One row of an attention mask `[length]`: 1 = token, 0 = padding. At least one token."""
    mask = numpy.ones(length, "int64")
    pads = rng.integers(0, length)
    if kind == "left":
        mask[:pads] = 0
    elif kind == "right":
        mask[length - pads :] = 0
    elif kind == "holes":
        mask[rng.permutation(length)[:pads]] = 0
    elif kind == "one token":
        mask[:] = numpy.arange(length) == pads
    return mask


def counted(kind: str, inputs: dict[str, Any], rng: numpy.random.Generator) -> numpy.ndarray:
    """Which labels `[B, S]` count, at least one. With "all", padding counts too: a label says so, not the mask."""
    shape = inputs["labels"].shape
    counts = numpy.zeros(shape, bool) if kind == "one" else numpy.ones(shape, bool)
    if kind == "tokens":
        counts = inputs.get("attention_mask", counts).astype(bool)
    elif kind == "half":
        counts = rng.random(shape) < 0.5
    counts[rng.integers(shape[0]), rng.integers(1, shape[1])] = True  # position 0 has no prediction to compare with
    return counts
