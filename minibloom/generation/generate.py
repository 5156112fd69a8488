"""`generate`: ids in, ids out, by whichever strategy the settings ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..backend import Array, to_numpy
from ..errors import InputError
from .beams import beam_search
from .contrastive import contrastive_search
from .decode import decode
from .job import Job, prepare
from .outputs import GenerateDecoderOnlyOutput, hand_back
from .speculative import speculate

if TYPE_CHECKING:
    from ..models import BloomForCausalLM


def generate(model: BloomForCausalLM, input_ids: Any, attention_mask: Any = None, **settings: Any) -> Any:
    """Prompts and what follows them, as ids `[B * N, S + new]`, int64.

    input_ids: an array `[B, S]`, padded on the left, with 0 in `attention_mask` there; or B lists of ids, or with
        `tokenizer` B texts, of any lengths, which are padded here.
    Settings are those of `GenerationConfig`, and mean what they mean in transformers; what is not set comes from
    `generation_config`, else from the model's own file, else it has its default. Further arguments:

    past_key_values: what the model has read of the prompts already: a cache, or a `PromptCache`. Greedy decoding,
        sampling with N = 1, and for one prompt speculation and contrastive search fill the cache itself; whatever else
        goes on with a copy.
    tokenizer: turns texts into ids; ids that it has no token for are never chosen. `stop_strings` needs it.
    assistant_model: a smaller model of the same tokens, which guesses ahead (see `speculative.py`).
    logits_processor: functions of ids `[B, T]` (-1 at padding) and logits `[B, V]` that return logits.
    prefix_allowed_tokens_fn: a function of a prompt's number and the ids `[T]` of a continuation of it (-1 at padding),
        which returns the ids that may follow.
    negative_prompt_ids, negative_prompt_attention_mask: `[B, S]`, with `guidance_scale`: what to lead away from.
    stopping_criteria: functions of ids `[B, T]` and scores `[B, V]` that say which rows have ended, `[B]`, or all.
    seed: of the draws.
    callback: is called with the ids `[B * N]` of each step. streamer: the same as an object of transformers, say a
        `TextStreamer`: `put` is called with the prompts `[B * N, S]`, then with the ids of each step, and then `end`.
    trace: a `Trace` that sees and edits every pass. It then holds the last one, over the token before the last.

    Returns ids, or with `return_dict_in_generate=True` a `GenerateDecoderOnlyOutput`, of beams a
    `GenerateBeamDecoderOnlyOutput`. N is `num_return_sequences`.

    If it fails midway, or Ctrl-C stops it, the error has what was there until then as its attribute `sequences`.
    """
    job = prepare(model, input_ids, attention_mask, **settings)
    return beam_search(job) if job.settings.num_beams > 1 else collect(job)


def generate_steps(
    model: BloomForCausalLM, input_ids: Any, attention_mask: Any = None, **settings: Any
) -> Iterator[Array]:
    """Yield the next id of each row, `[B * N]`, until every row has ended or the length is reached.

    Arguments as in `generate`. All of them are checked at the call; nothing is computed before it is asked for.
    """
    job = prepare(model, input_ids, attention_mask, **settings)
    if job.settings.num_beams > 1:
        raise InputError(f"num_beams is {job.settings.num_beams}: beams are not known before the end. Use generate.")

    def steps() -> Iterator[Array]:  # a function of its own: what stands above runs at the call
        begin(job)
        for chosen in steps_of(job):
            show(job, chosen)
            yield chosen
        end(job)

    return steps()


def steps_of(job: Job) -> Iterator[Array]:
    """The ids `[B * N]` of each step, by the strategy that the settings ask for."""
    s = job.settings
    if job.draft is not None or s.prompt_lookup_num_tokens is not None:
        return speculate(job)
    if s.penalty_alpha > 0:
        return contrastive_search(job)
    return decode(job)


def begin(job: Job) -> None:
    """Show the prompts to whoever listens, as transformers does."""
    if job.streamer is not None:
        job.streamer.put(to_numpy(job.xp.repeat(job.ids, job.settings.num_return_sequences, axis=0)))


def show(job: Job, chosen: Array) -> None:
    """Show the ids `[B * N]` of a step."""
    if job.callback is not None:
        job.callback(chosen)
    if job.streamer is not None:
        job.streamer.put(to_numpy(chosen))


def end(job: Job) -> None:
    if job.streamer is not None:
        job.streamer.end()


def collect(job: Job) -> Any:
    """All steps as one output."""
    xp, s = job.xp, job.settings
    columns = [xp.repeat(job.ids, s.num_return_sequences, axis=0)]
    try:
        begin(job)
        for chosen in steps_of(job):
            columns.append(chosen[:, None])
            show(job, chosen)
        end(job)
    except BaseException as error:  # Ctrl-C too
        hand_back(error, xp.concatenate(columns, axis=1))
        raise
    sequences = xp.concatenate(columns, axis=1)
    if not s.return_dict_in_generate:
        return sequences
    return GenerateDecoderOnlyOutput(sequences, **job.kept())
