"""Makes tests/data/documented.safetensors: what transformers 4.35.2, torch and Flax, computes for a few tiny BLOOMs.

    MINIBLOOM_DOCUMENTED_PYTHON=PYTHON python -m tests.make_documented_goldens     # see `documented/__init__.py`

With that file, `test_documented_goldens.py` proves everywhere what only that version can: the Flax models, `head_mask`,
tuples of past keys and values, and the heads with its eyes. What stands in it, by name:

    pool                                   normal numbers, which all parameters are read from: `make_goldens.parameters`
    CASE/0/given/input_ids, ...            the arrays among the arguments of a case's first call; 1 is its second, ...
    CASE/0/out/logits, CASE/0/out/1.0, ... what it returned: the fields of an output, or places in a tuple
    CASE/0/gradient/PARAMETER              of its loss; long ones thinned: `make_goldens.thinned`
    CASE/params/transformer.ln_f.bias, ... the tree of Flax parameters that transformers makes of those of torch

and in the header's metadata, as JSON under "about": the oracle's versions, this command, and for each case the class,
the configuration, the rest of the arguments of each call, and the warning or error it ended in. `CASES` are computed in
float64, as in the other goldens; `QUIRKS`, where the oracle is wrong or differs from transformers 5, as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy

import minibloom
from minibloom import BloomConfig
from minibloom.flax import FlaxPreTrainedModel

from .documented.oracle import ask
from .documented.wire import flat
from .golden_file import narrowed, write_goldens
from .make_goldens import PADDING, POOL, parameters, thinned

GOLDENS = Path(__file__).parent / "data" / "documented.safetensors"
COMMAND = "MINIBLOOM_DOCUMENTED_PYTHON=PYTHON python -m tests.make_documented_goldens"
ALL = {"output_hidden_states": True, "output_attentions": True}
RNG = numpy.random.default_rng(2023)
IDS = RNG.integers(4, 19, (3, 6))  # 3 is the id of padding
MASK = numpy.array(PADDING)  # left, holes, right
COUNTED = IDS.copy()  # labels, but for what a position that sees no token is to predict: see `QUIRKS`
COUNTED[0, :3] = -100
RIGHT = numpy.where(numpy.arange(6) < [[6], [5], [3]], IDS, 3)
PAST = numpy.array([6, 7, 60])  # positions past the end
LEFT = numpy.where(numpy.arange(6) >= [[0], [1], [3]], IDS, 3)
FIRST = numpy.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1], [1, 1, 1, 1, 1, 0]])  # the first position is a token
ROOM = numpy.pad(FIRST, ((0, 0), (0, 2)), constant_values=1)  # for steps with room for 8
STEPS = [slice(0, 3), slice(3, 4), slice(4, 6)]


@dataclass
class Case:
    """A model and calls, made one after the other. minibloom and the oracle are given the same."""

    model: str
    calls: list[dict[str, Any]]
    config: dict[str, Any] = field(default_factory=dict)
    gradients: bool = False
    dtype: str = "float64"
    patches: list[str] = field(default_factory=lambda: ["float64", "cat"])


def quirk(model: str, *calls: dict[str, Any], **config: Any) -> Case:
    """A case for the oracle as it is."""
    return Case(model, list(calls), config, dtype="float32", patches=[])


CAUSAL, SEQUENCE, TOKEN = "BloomForCausalLM", "BloomForSequenceClassification", "BloomForTokenClassification"
ANSWER, FLAX, FLAX_BASE = "BloomForQuestionAnswering", "FlaxBloomForCausalLM", "FlaxBloomModel"
NO_CACHE = {"use_cache": False}

CASES = {
    "head_mask_of_heads": Case(
        CAUSAL,
        [{"input_ids": IDS, "attention_mask": MASK, "head_mask": numpy.array([0.5, 0.0, 1.0, 0.25]), "labels": COUNTED}
         | ALL | NO_CACHE],
        {"n_head": 4},
        gradients=True,
    ),
    "head_mask_of_blocks": Case(
        "BloomModel",
        [{"input_ids": IDS, "attention_mask": MASK, "head_mask": RNG.uniform(0, 1, (2, 6)).round(1)} | ALL],
        {"hidden_size": 18, "n_head": 6, "n_layer": 2},
    ),
    "embeddings": Case("BloomModel", [{"inputs_embeds": RNG.standard_normal((3, 6, 8)), "attention_mask": MASK}]),
    "tuples_in_steps": Case(
        CAUSAL,
        [{"input_ids": IDS[:, at], "attention_mask": MASK[:, : at.stop], "use_cache": True}
         | ({"past_key_values": "previous"} if at.start else {}) | ALL for at in STEPS],
        {"n_head": 8, "n_layer": 2},
    ),
    "one_label": Case(
        SEQUENCE,
        [{"input_ids": RIGHT, "attention_mask": (RIGHT != 3) * 1, "labels": numpy.array([2, -100, 0])} | NO_CACHE],
        {"num_labels": 3, "pad_token_id": 3},
        gradients=True,
    ),
    "several_labels": Case(
        SEQUENCE,
        [{"input_ids": RIGHT, "labels": numpy.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.25]])} | NO_CACHE],
        {"num_labels": 3, "pad_token_id": 3},
        gradients=True,
    ),
    "one_number": Case(
        SEQUENCE,
        [{"input_ids": RIGHT, "labels": numpy.array([0.5, -1.5, 2.0])} | NO_CACHE],
        {"num_labels": 1, "pad_token_id": 3},
        gradients=True,
    ),
    "several_numbers": Case(
        SEQUENCE,
        [{"input_ids": RIGHT, "labels": RNG.standard_normal((3, 2)), **ALL, **NO_CACHE}],
        {"num_labels": 2, "pad_token_id": 3, "problem_type": "regression"},
        gradients=True,
    ),
    "one_row_without_a_pad_token": Case(SEQUENCE, [{"input_ids": IDS[:1]}]),
    "embeddings_have_no_pad_token": Case(
        SEQUENCE, [{"inputs_embeds": RNG.standard_normal((3, 4, 8))}], {"pad_token_id": 3}
    ),
    "tokens": Case(
        TOKEN,
        [{"input_ids": IDS, "attention_mask": MASK, "labels": numpy.where(MASK == 1, IDS % 3, -100)} | ALL | NO_CACHE],
        {"num_labels": 3},
        gradients=True,
    ),
    "spans": Case(  # below 0, past the end, at the end, in it
        ANSWER,
        [{"input_ids": IDS, "attention_mask": FIRST, **ALL,
          "start_positions": numpy.array([-1, 2, 9]), "end_positions": numpy.array([[3], [6], [1]])}],
        gradients=True,
    ),
    "flax": Case(FLAX, [{"input_ids": IDS, "attention_mask": MASK} | ALL], {"n_head": 4}),
    "flax_untied_three_heads": Case(
        FLAX, [{"input_ids": IDS} | ALL], {"hidden_size": 6, "n_head": 3, "tie_word_embeddings": False}
    ),
    "flax_base": Case(
        FLAX_BASE,
        [{"input_ids": IDS, "attention_mask": MASK} | ALL],
        {"n_head": 1, "apply_residual_connection_post_layernorm": True},
    ),
    "flax_in_steps": Case(
        FLAX,
        [{"input_ids": IDS[:, at], "attention_mask": ROOM, "past_key_values": "previous" if at.start else [3, 8]} | ALL
         for at in STEPS],
        {"n_head": 4, "n_layer": 2},
    ),
    "flax_base_in_steps": Case(
        FLAX_BASE,
        [{"input_ids": IDS[:, at], "attention_mask": ROOM, "past_key_values": "previous" if at.start else [3, 8]}
         for at in STEPS],
    ),
    # --- what is returned without return_dict, in which order ---
    "tuple_of_the_model": Case("BloomModel", [{"input_ids": IDS, "return_dict": False} | ALL]),
    "tuple_of_causal_lm": Case(CAUSAL, [{"input_ids": IDS, "labels": IDS, "return_dict": False} | ALL]),
    "tuple_of_sequence_classification": Case(
        SEQUENCE,
        [{"input_ids": IDS, "labels": numpy.array([0, 1, 1]), "return_dict": False} | ALL],
        {"pad_token_id": 3},
    ),
    "tuple_of_token_classification": Case(
        TOKEN, [{"input_ids": IDS, "labels": IDS % 2, "return_dict": False} | ALL], {"num_labels": 2}
    ),
    "tuple_of_question_answering": Case(
        ANSWER,
        [{"input_ids": IDS, "start_positions": IDS[:, 0] % 6, "end_positions": IDS[:, 1] % 6, "return_dict": False}
         | ALL],
    ),
    "tuple_of_flax": Case(FLAX, [{"input_ids": IDS, "output_attentions": True, "return_dict": False}]),
    "tuple_of_flax_with_a_cache": Case(
        FLAX_BASE,
        [{"input_ids": IDS, "attention_mask": ROOM, "past_key_values": [3, 8], "output_attentions": True,
          "return_dict": False}],
    ),
}  # fmt: skip

QUIRKS = {
    "pads_on_the_left": quirk(SEQUENCE, {"input_ids": LEFT, "attention_mask": (LEFT != 3) * 1}, pad_token_id=3),
    "a_pad_token_inside": quirk(SEQUENCE, {"input_ids": numpy.array([[5, 3, 7, 8, 3, 3]])}, pad_token_id=3),
    "problem_type_is_kept": quirk(SEQUENCE, {"input_ids": IDS[:1], "labels": numpy.array([1])}),
    "labels_of_a_row_that_sees_nothing": Case(
        CAUSAL,
        [{"input_ids": IDS, "attention_mask": MASK, "labels": IDS, "use_cache": False}],
        {"n_head": 4},
        gradients=True,
        patches=["float64"],
    ),
    "tuple_of_tokens_without_a_cache": quirk(TOKEN, {"input_ids": IDS, "return_dict": False, **ALL, **NO_CACHE}),
    "tuple_of_answers_without_a_cache": quirk(ANSWER, {"input_ids": IDS, "return_dict": False} | ALL, use_cache=False),
    "spans_all_past_the_end": quirk(ANSWER, {"input_ids": IDS, "start_positions": PAST, "end_positions": PAST}),
    "position_ids": quirk(CAUSAL, {"input_ids": IDS, "position_ids": IDS}),
    "position_ids_of_answers": quirk(ANSWER, {"input_ids": IDS}),
    "unknown_argument": quirk(CAUSAL, {"input_ids": IDS, "token_type_ids": IDS}),
    "float64": Case("BloomModel", [{"input_ids": IDS}], patches=[]),
    "flax_three_heads": quirk(FLAX, {"input_ids": IDS}, hidden_size=6, n_head=3),
    "flax_hidden_states_in_a_tuple": quirk(FLAX, {"input_ids": IDS, "return_dict": False} | ALL),
    "flax_place_of_the_cache": quirk(
        FLAX, {"input_ids": IDS, "attention_mask": ROOM, "past_key_values": [3, 8], "output_attentions": True}
    ),
    "flax_full_cache": quirk(
        FLAX,
        {"input_ids": IDS[:, :4], "attention_mask": FIRST, "past_key_values": [3, 6]},
        {"input_ids": IDS[:, 2:], "attention_mask": FIRST, "past_key_values": "previous"},
    ),
    "flax_mask_too_short": quirk(FLAX, {"input_ids": IDS, "attention_mask": FIRST, "past_key_values": [3, 8]}),
    "flax_cache_without_mask": quirk(FLAX, {"input_ids": IDS, "past_key_values": [3, 8]}),
    "flax_padding_before_a_cache": quirk(
        FLAX, {"input_ids": IDS, "attention_mask": numpy.pad(MASK, ((0, 0), (0, 2))), "past_key_values": [3, 8]} | ALL
    ),
    "flax_ids_out_of_range": quirk(FLAX, {"input_ids": IDS + 15}),
    "flax_training": quirk(
        FLAX,
        {"input_ids": IDS, "train": True, "dropout_rng": 0, "output_hidden_states": True},
        hidden_dropout=0.5,
        hidden_size=16,
        n_layer=2,
    ),
    "flax_training_of_attention": quirk(
        FLAX,
        {"input_ids": IDS, "train": True, "dropout_rng": 0, "output_attentions": True},
        attention_dropout=0.5,
        n_head=4,
    ),
    "flax_training_without_rng": quirk(FLAX, {"input_ids": IDS, "train": True}, hidden_dropout=0.5),
    "flax_rng_without_training": quirk(FLAX, {"input_ids": IDS, "dropout_rng": 0}, hidden_dropout=0.5),
}


def model_of(pool: numpy.ndarray, name: str, config: Mapping[str, Any], dtype: str) -> Any:
    """minibloom's model of a case."""
    kind = getattr(minibloom, name)
    c = BloomConfig(**{"vocab_size": 19, "hidden_size": 8, "n_layer": 1, "n_head": 2} | config)
    flax = issubclass(kind, FlaxPreTrainedModel)
    params = parameters(pool, c, kind.kind if flax else kind)
    params = {name: x.astype(dtype) for name, x in params.items()}
    model = kind(c, dtype=dtype)
    model.params = model.params_to_tree(params) if flax else params
    return model


def arrays_of(came: Mapping[str, Any]) -> dict[str, numpy.ndarray]:
    """The arrays that a call came to, under their names in the file."""
    arrays = {f"out/{name}": x for name, x in flat(came.get("out")).items()}
    return arrays | {f"gradient/{name}": thinned(x) for name, x in (came.get("gradients") or {}).items()}


def settled(x: numpy.ndarray) -> numpy.ndarray:
    """An array without the remains of sums that cancel: the gradients of answers' biases, exactly 0, come as 1e-17."""
    return numpy.where(abs(x) < 1e-13, 0, x) if x.dtype == "float64" else x


def make() -> tuple[dict[str, numpy.ndarray], dict[str, Any]]:
    """The tensors of the file, and what it tells about itself."""
    pool = numpy.random.default_rng(2023).standard_normal(POOL, dtype="float32")
    goldens, cases, versions = {"pool": pool}, {}, {}
    for name, case in (CASES | QUIRKS).items():
        model = model_of(pool, case.model, case.config, case.dtype)
        answer = ask(model, case.calls, case.gradients, case.patches)
        versions = answer["versions"]
        for i, call in enumerate(case.calls):
            goldens |= {f"{name}/{i}/given/{key}": x for key, x in call.items() if isinstance(x, numpy.ndarray)}
        for i, came in enumerate(answer["calls"]):
            goldens |= {f"{name}/{i}/{key}": settled(x) for key, x in arrays_of(came).items()}
        if case.model == FLAX and not case.config.get("tie_word_embeddings", True):
            goldens |= {f"{name}/params/{place}": x for place, x in flat(answer["params"]).items()}
        cases[name] = asdict(case) | {
            "calls": [{k: x for k, x in call.items() if not isinstance(x, numpy.ndarray)} for call in case.calls],
            "ends": [came.get("error") or came["warnings"] for came in answer["calls"]] or [answer["error"]],
            "problem_type": answer.get("problem_type"),
        }
    about = {"oracle": ", ".join(map(" ".join, versions.items())), "command": COMMAND, "cases": cases}
    return narrowed(goldens), about


if __name__ == "__main__":
    write_goldens(GOLDENS, *make())
