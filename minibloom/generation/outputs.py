"""What `generate` returns with `return_dict_in_generate=True`, under transformers' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..backend import Array
from ..cache import Cache
from ..outputs import ModelOutput


@dataclass(eq=False, repr=False)
class GenerateDecoderOnlyOutput(ModelOutput):
    """Of greedy decoding, sampling, contrastive search and speculation.

    sequences: ids `[B, S + new]`, prompts and what follows.
    scores, logits: for each new token `[B, V]`, what it was chosen from, and what the model said.
    attentions, hidden_states: for each pass, the model's tuple.
    past_key_values: the cache, as in transformers of all rows: so rows that have ended are read on, and only without
        such an output cost nothing more. The last ids have not been read into it.

    Of speculation over several rows, each of which ends by itself: NaN in `scores` and `logits` behind its end, and no
    cache. Nor is there one of contrastive search into a window.
    """

    sequences: Array = None
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    past_key_values: Cache | None = None


@dataclass(eq=False, repr=False)
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """Of beam search. B prompts, K beams of each, N sequences returned of each, the best first.

    sequences: ids `[B * N, S + new]`.
    sequences_scores: `[B * N]`, sums of log-probabilities over length to the power of the length penalty.
    scores, logits: for each step `[B * K, V]`, processed log-probabilities, and what the model said. A beam that a
        prompt does not have at a step has -inf. In the first step, all beams are the prompt.
    beam_indices: `[B * N, new]`, the row of `scores` that each token was chosen from, -1 behind the end.
    attentions, hidden_states: for each pass, the model's tuple, with the same B * K rows; NaN where there is no beam.
    past_key_values: the cache of the beams that were followed last.
    """

    sequences: Array = None
    sequences_scores: Array | None = None
    scores: tuple[Array, ...] | None = None
    logits: tuple[Array, ...] | None = None
    beam_indices: Array | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    past_key_values: Cache | None = None


def hand_back(error: BaseException, sequences: Array) -> None:
    """Put what was generated until an error into it."""
    error.sequences = sequences  # type: ignore[attr-defined]
    error.add_note(f"The attribute `sequences` of this error has what was there until then: {list(sequences.shape)}.")
