"""Goldens of what transformers 5 no longer runs by itself: contrastive search, groups of beams, forced words.

    python -m tests.generation.make_goldens    in an environment with transformers 4.35.2 and torch, without minibloom

writes `tests/data/generation_goldens.json`: for each case the shape and seed of a model, whose parameters
`random_params` draws again, prompts, settings, and the ids that transformers returned, in float32.
No row ends early: there, that version divides by another length than transformers 5 (the prompt counts).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy

FILE = Path(__file__).parent.parent / "data" / "generation_goldens.json"
SEED = 0


def shapes(V: int, E: int, L: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters, as `minibloom.config.parameter_shapes` has them."""
    norm = ("weight", "bias")
    result: dict[str, tuple[int, ...]] = {"word_embeddings.weight": (V, E)}
    result |= {f"word_embeddings_layernorm.{kind}": (E,) for kind in norm}
    for i in range(L):
        result |= {f"h.{i}.input_layernorm.{kind}": (E,) for kind in norm}
        for name, out, into in (("self_attention.query_key_value", 3 * E, E), ("self_attention.dense", E, E)):
            result |= {f"h.{i}.{name}.weight": (out, into), f"h.{i}.{name}.bias": (out,)}
        result |= {f"h.{i}.post_attention_layernorm.{kind}": (E,) for kind in norm}
        for name, out, into in (("mlp.dense_h_to_4h", 4 * E, E), ("mlp.dense_4h_to_h", E, 4 * E)):
            result |= {f"h.{i}.{name}.weight": (out, into), f"h.{i}.{name}.bias": (out,)}
    return result | {f"ln_f.{kind}": (E,) for kind in norm}


def random_params(case: dict[str, Any]) -> dict[str, numpy.ndarray]:
    """The parameters of a case, float64."""
    rng = numpy.random.default_rng(case["seed"])
    params = {}
    for name, shape in shapes(case["vocab_size"], case["hidden_size"], case["n_layer"]).items():
        x = rng.standard_normal(shape)
        scale = (1.0 if "embeddings" in name else 1.2) / shape[-1] ** 0.5
        params[name] = x * scale if len(shape) == 2 else 0.3 * x + name.endswith(("norm.weight", "ln_f.weight"))
    return params


def cases() -> list[dict[str, Any]]:
    """What is asked."""
    rng = numpy.random.default_rng(SEED)
    made = []
    for i in range(60):
        heads, V = int(rng.choice([2, 4])), int(rng.integers(12, 40))
        B, S, beams = int(rng.integers(1, 4)), int(rng.integers(1, 7)), int(rng.integers(1, 4))
        settings: dict[str, Any] = {"max_new_tokens": int(rng.integers(1, 9))}
        if i % 3 == 0:
            settings |= {"penalty_alpha": float(rng.choice([0.2, 0.6, 0.9])), "top_k": int(rng.integers(2, 6))}
        elif i % 3 == 1:
            groups = int(rng.integers(2, 4))
            settings |= {"num_beams": groups * beams, "num_beam_groups": groups}
            settings |= {"diversity_penalty": float(rng.choice([0.1, 0.5, 2.0]))}
            settings |= {"num_return_sequences": int(rng.integers(1, groups * beams + 1))}
        else:
            words = rng.choice(numpy.arange(V // 2, V), (2, 2), replace=False).tolist()  # none is in the prompts
            settings |= {"num_beams": beams + 1, "max_new_tokens": settings["max_new_tokens"] + 4}
            settings |= {"force_words_ids": [words[0], [words[1], words[1][::-1]]][: int(rng.integers(1, 3))]}
        made.append({
            "vocab_size": V, "hidden_size": heads * 2 * int(rng.integers(3, 9)), "n_layer": 2, "n_head": heads,
            "seed": i, "ids": rng.integers(0, V // 2, (B, S)).tolist(), "settings": settings,
        })  # fmt: skip
    return made


def main() -> None:
    import torch
    import transformers

    results = cases()
    for case in results:
        fields = {name: case[name] for name in ("vocab_size", "hidden_size", "n_layer", "n_head")}
        module = transformers.BloomForCausalLM(transformers.BloomConfig(**fields)).eval()
        with torch.no_grad():
            for name, value in random_params(case).items():
                dict(module.named_parameters())["transformer." + name].copy_(torch.from_numpy(value))
            ids = torch.tensor(case["ids"])
            module.generation_config.eos_token_id = None  # else 2, from the configuration
            out = module.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **case["settings"])
        case["sequences"] = out.tolist()
    made_by = f"transformers {transformers.__version__}, torch {torch.__version__}"
    lines = ",\n".join(json.dumps(case) for case in results)
    FILE.write_text(f'{{"made_by": {json.dumps(made_by)}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
