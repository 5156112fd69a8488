"""The whole stack: ids to hidden states, and back as gradients.

x = LayerNorm(E[ids])             BLOOM's own: this norm was put in to keep training stable
x = block_0(x) ... block_{L-1}(x)
hidden = LayerNorm_f(x)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from ..backend import Array, namespace
from .block import block, block_backward
from .compiled_blocks import compiled_blocks, suits_compiled_blocks
from .embedding import embedding, embedding_backward
from .layer_norm import layer_norm, layer_norm_backward
from .one_token import one_token_blocks, suits_one_token
from .run import Run, keep

FIRST_NORM, LAST_NORM = "word_embeddings_layernorm", "ln_f"


def transformer(ids: Array | None, embeds: Array | None, params: Mapping[str, Array], run: Run) -> Array:
    """Ids `[B, S]`, or in their place embeddings `[B, S, E]` -> hidden states `[B, S, E]`."""
    eps, watch = run.config.layer_norm_epsilon, run.watch
    if embeds is None:
        embeds = embedding(watch("input_ids", ids), params["word_embeddings.weight"])  # [B, S] -> [B, S, E]
    x = watch("word_embeddings", embeds)
    if suits_compiled_blocks(x, params, run):
        hidden = compiled_blocks(x, params, run)
        if hidden is not None:  # None where an array is of another kind than the loop takes
            return hidden
    x = watch(FIRST_NORM, layer_norm(x, params[f"{FIRST_NORM}.weight"], params[f"{FIRST_NORM}.bias"], eps))
    given = run.mask
    run.mask, run.alibi = watch("attention_mask", given), watch("alibi", run.alibi)
    if run.mask is not given:  # edited
        run.padded = None
    if suits_one_token(x, run):
        x = one_token_blocks(x, params, run)
    else:
        for layer in range(run.config.n_layer):
            if run.rng is not None:
                run.rng_states.append(run.rng.bit_generator.state)
            x = block(x, params, layer, run)
    return watch(LAST_NORM, layer_norm(x, params[f"{LAST_NORM}.weight"], params[f"{LAST_NORM}.bias"], eps))


def transformer_backward(
    d: Array,
    params: Mapping[str, Array],
    config: Any,
    tape: Mapping[str, Array],
    grads: MutableMapping[str, Array],
    again: Callable[[Array, int], Mapping[str, Array]] | None = None,
    forget: Callable[[str], None] | None = None,
) -> None:
    """Upstream `d [B, S, E]` at the hidden states -> every parameter's gradient, into `grads`.

    What a tied head has already put there for the embedding matrix stays, and is added to. Where the tape has no steps
    from inside of blocks, `again(x, layer)` computes those of one block again from its input: memory for one block's
    steps instead of all blocks', at the price of a second forward pass. After each block, `forget(prefix)` is called:
    the steps whose names begin so are not needed any more.

    Where `grads` has places under the names of steps, the gradients at these are put there too: see `run.keep`.
    """
    eps = config.layer_norm_epsilon
    inputs = [FIRST_NORM, *(f"h.{i}" for i in range(config.n_layer))]  # of block 0, 1, ... and of the last norm

    def through_norm(d: Array, x: Array, norm: str) -> Array:
        dx, grads[f"{norm}.weight"], grads[f"{norm}.bias"] = layer_norm_backward(d, x, params[f"{norm}.weight"], eps)
        return dx

    d = through_norm(keep(grads, LAST_NORM, d), tape[inputs[-1]], LAST_NORM)
    for layer in reversed(range(config.n_layer)):
        x = tape[inputs[layer]]
        steps = tape if again is None else again(x, layer)
        d = block_backward(keep(grads, f"h.{layer}", d), x, params, layer, config, steps, grads)
        if forget is not None:
            forget(f"h.{layer}.")
    d = through_norm(keep(grads, FIRST_NORM, d), tape["word_embeddings"], FIRST_NORM)
    keep(grads, "word_embeddings", d)
    table = "word_embeddings.weight"
    if table not in grads:
        grads[table] = namespace(d).zeros_like(params[table])
    if "input_ids" in tape:
        embedding_backward(d, tape["input_ids"], grads[table])
