"""Makes tests/data/goldens.safetensors: what transformers computes for a few tiny BLOOMs, down to every gradient.

    python -m tests.make_goldens          # in the root of the repository; needs the extra `parity`

With that file, `test_goldens.py` proves parity where neither torch nor transformers is installed; so can BLOOM in
any other language. What stands in it, by name:

    pool                            normal numbers, which all parameters are read from: see `parameters`
    CASE/input_ids, ...             the arguments of a call: attention_mask and labels too, if the case has them
    CASE/logits, CASE/loss, CASE/hidden_states.0, CASE/attentions.0, CASE/keys.0, CASE/values.0, ...
    CASE/gradient/PARAMETER         of the loss; long ones thinned: see `thinned`
    CASE/step.0/logits, ...         the same call in steps, each reading the keys and values of those before

and in the header's metadata, as JSON under "about": the oracle's versions, this command, the configuration of each
case and the lengths of its steps. The oracle computes in float64, kept from float32 by a patch in `parity/oracle.py`,
so that its rounding does not depend on the machine; the numbers are stored as float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from minibloom import BloomConfig, BloomForCausalLM
from minibloom.base import PreTrainedModel

from .golden_file import narrowed, write_goldens

GOLDENS = Path(__file__).parent / "data" / "goldens.safetensors"
COMMAND = "python -m tests.make_goldens"
POOL = 4093  # a prime, so that no two rows of a matrix are alike
THIN = 101  # a prime, so that every column is met

PADDING = [[0, 0, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1], [1, 1, 1, 1, 1, 0]]  # left, holes, right
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {"n_head": 4},
    "six_heads": {"hidden_size": 18, "n_head": 6},
    "heads_of_176b": {"hidden_size": 112, "n_head": 112, "n_layer": 1},
    "post_layernorm_untied": {"apply_residual_connection_post_layernorm": True, "tie_word_embeddings": False},
    "slow_but_exact": {"slow_but_exact": True, "pretraining_tp": 2},
    "cached": {"n_head": 8},
}
MASKS = {"six_heads": PADDING, "cached": PADDING}
STEPS = {"cached": [3, 1, 2]}
EVERYTHING = {"output_hidden_states": True, "output_attentions": True, "use_cache": True}


def config_of(case: str) -> dict[str, Any]:
    return {"vocab_size": 19, "hidden_size": 16, "n_layer": 2, "n_head": 2} | CONFIGS[case]


def parameters(
    pool: numpy.ndarray, config: BloomConfig, kind: type[PreTrainedModel] = BloomForCausalLM
) -> dict[str, numpy.ndarray]:
    """Parameters that are read one after the other, in the order of the names, from `pool`, around and around.

    A number z becomes z * 1.5 / sqrt(columns) in a matrix, 1 + z / 4 in a norm's weight, z / 4 in a bias. With
    `slow_but_exact`, the two biases that transformers then drops are 0.
    """
    params, read = {}, 0
    for name, shape in kind.shapes(config).items():
        z = numpy.resize(numpy.roll(pool, -read), shape)
        read = (read + z.size) % len(pool)
        if len(shape) == 2:
            params[name] = z * numpy.float32(1.5 / shape[1] ** 0.5)
        elif config.slow_but_exact and name.endswith((".dense.bias", ".dense_4h_to_h.bias")):
            params[name] = numpy.zeros_like(z)
        else:
            params[name] = z / 4 + name.endswith(("norm.weight", "ln_f.weight"))
    return params


def model_of(pool: numpy.ndarray, config: Mapping[str, Any], dtype: str) -> BloomForCausalLM:
    """minibloom's model of a case."""
    model = BloomForCausalLM(BloomConfig(**config), dtype=dtype)
    model.params = {name: x.astype(dtype) for name, x in parameters(pool, model.config).items()}
    return model


def steps_of(inputs: Mapping[str, numpy.ndarray], lengths: list[int]) -> list[dict[str, numpy.ndarray]]:
    """The arguments of each step: new ids, and the mask over old and new ones."""
    ends = numpy.cumsum(lengths)
    return [
        {"input_ids": inputs["input_ids"][:, end - n : end], "attention_mask": inputs["attention_mask"][:, :end]}
        for n, end in zip(lengths, ends, strict=True)
    ]


def thinned(gradient: numpy.ndarray) -> numpy.ndarray:
    """A gradient of at most `POOL` numbers as it is; of a longer one, every 101st number in the order of memory."""
    return gradient if gradient.size <= POOL else gradient.reshape(-1)[::THIN]


def arrays_of(out: Mapping[str, Any], prefix: str) -> dict[str, numpy.ndarray]:
    """The arrays of a named output (see `parity/compare.py`) under their names in the file."""
    return {f"{prefix}/{name}": x for name, x in out.items() if name != "past_key_values"}


def make() -> tuple[dict[str, numpy.ndarray], dict[str, Any]]:
    """The tensors of the file, and what it tells about itself."""
    import torch
    import transformers

    from .parity.oracle import Oracle, float64_kept, oracle_value_and_grad

    rng = numpy.random.default_rng(2022)
    pool = rng.standard_normal(POOL, dtype="float32")
    goldens = {"pool": pool}
    for case in CONFIGS:
        config = config_of(case)
        inputs = {"input_ids": rng.integers(0, config["vocab_size"], (3, 6))}
        if case in MASKS:
            inputs["attention_mask"] = numpy.array(MASKS[case])
        with float64_kept():
            model = model_of(pool, config, "float64")
            if case in STEPS:
                oracle, past = Oracle(model), None
                for i, step in enumerate(steps_of(inputs, STEPS[case])):
                    out = oracle(**step, **EVERYTHING, past_key_values=past)
                    past = out["past_key_values"]
                    goldens |= arrays_of(out, f"{case}/step.{i}")
            else:
                inputs["labels"] = numpy.where(rng.random((3, 6)) < 0.8, inputs["input_ids"], -100)
                out, gradients = oracle_value_and_grad(model, **inputs, **EVERYTHING)
                goldens |= arrays_of(out, case)
                goldens |= {f"{case}/gradient/{name}": thinned(x) for name, x in gradients.items()}
        goldens |= {f"{case}/{name}": x for name, x in inputs.items()}
    about = {
        "oracle": f"transformers {transformers.__version__} on torch {torch.__version__}",
        "command": COMMAND,
        "configs": {case: config_of(case) for case in CONFIGS},
        "steps": STEPS,
    }
    return narrowed(goldens), about


if __name__ == "__main__":
    write_goldens(GOLDENS, *make())
