"""`generate`: ids in, ids out, by whichever strategy the settings ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..backend import Array, to_numpy
from ..errors import InputError
from .beams import beam_search
from .contrastive import contrastive_search
from .decode import decode
from .job import Job
from .outputs import GenerateDecoderOnlyOutput, hand_back
from .prepare import prepare
from .speculative import speculate

if TYPE_CHECKING:
    from ..models import BloomForCausalLM


def generate(model: BloomForCausalLM, input_ids: Any = None, attention_mask: Any = None, **settings: Any) -> Any:
    """Prompts and what follows them, as ids `[B * N, S + new]`, int64.

    input_ids: an array `[B, S]`, padded on the left, with 0 in `attention_mask` there; or B lists of ids, or with
        `tokenizer` B texts, of any lengths, which are padded here. `inputs` is another name for it.
    Settings are those that `help(minibloom.generation.GenerationConfig)` lists, and mean what they do in transformers;
    what is not set comes from `generation_config` (or a dictionary of settings), else from the model's own file, else
    it has its default. None in the call takes back what those say.
    Further arguments:

    past_key_values: what the model has read of the prompts already: a cache, or a `PromptCache`. Greedy decoding,
        sampling with N = 1, and for one prompt speculation and contrastive search fill the cache itself; whatever else
        goes on with a copy.
    tokenizer: turns texts into ids; ids that it has no token for are never chosen, which without it any may be (BLOOM's
        matrix has 200 such rows). `stop_strings` needs it.
    assistant_model: a smaller model of the same tokens, which guesses ahead (see `speculative.py`).
    logits_processor: functions of ids `[B, T]` (-1 at padding) and logits `[B, V]` that return logits. Rows that have
        ended may have left: B are those that go on.
    prefix_allowed_tokens_fn: a function of a number and the ids `[T]` of a continuation (-1 at padding), which returns
        the ids that may follow. The number is that of the row, from 0 to B * N - 1; in beam search that of the prompt.
    negative_prompt_ids, negative_prompt_attention_mask: `[B, S]`, with `guidance_scale`: what to lead away from.
    stopping_criteria: functions of ids `[B, T]` and scores `[B, V]` that say which rows have ended, `[B]`, or all.
    seed: of the draws; or a NumPy generator, whose draws go on from call to call.
    callback: is called with the ids `[B * N]` of each step. streamer: the same as an object of transformers, say a
        `TextStreamer`: `put` is called with the prompts `[B * N, S]`, then with the ids of each step, and then `end`.
    trace: a `Trace` that sees and edits every pass. It then holds the last one, over the token before the last.

    Returns ids, or with `return_dict_in_generate=True` a `GenerateDecoderOnlyOutput`, of beams a
    `GenerateBeamDecoderOnlyOutput`. N is `num_return_sequences`.

    If it fails midway, or Ctrl-C stops it, the error has what was there until then as its attribute `sequences`.
    """
    job = prepare(model, _prompts(input_ids, settings), attention_mask, **settings)
    return beam_search(job) if job.settings.num_beams > 1 else collect(job)


def _prompts(input_ids: Any, settings: dict[str, Any]) -> Any:
    """What is to be continued, under either of its names; its other name leaves `settings`."""
    inputs, embeds = settings.pop("inputs", None), settings.pop("inputs_embeds", None)
    if embeds is not None:
        raise InputError("inputs_embeds is set, but generate goes on from ids: give input_ids, or call the model.")
    if (input_ids is None) == (inputs is None):
        wrong = "there is no prompt" if inputs is None else "inputs and input_ids are both set"
        raise InputError(f"{wrong}: give input_ids, an array or lists of ids, or texts together with tokenizer.")
    return inputs if input_ids is None else input_ids


def generate_steps(
    model: BloomForCausalLM, input_ids: Any = None, attention_mask: Any = None, **settings: Any
) -> Iterator[Array]:
    """Yield the next id of each row, `[B * N]`, until every row has ended or the length is reached.

    Arguments as in `generate`. All of them are checked at the call; nothing is computed before it is asked for.
    """
    return shown(_prepare_steps(model, _prompts(input_ids, settings), attention_mask, **settings))


def generate_ids(model: BloomForCausalLM, prompt: Any, **settings: Any) -> Iterator[int]:
    """Yield the next ids of one prompt, one after another: what a stream shows. Arguments as in `generate`."""
    return ids_of(prepare_stream(model, prompt, **settings))


def prepare_stream(model: BloomForCausalLM, prompt: Any, **settings: Any) -> Job:
    """The job of a stream, which has one row."""
    job = _prepare_steps(model, prompt, **settings)
    if (n := job.settings.num_return_sequences) > 1:
        raise InputError(f"num_return_sequences is {n}: a stream has one continuation. Use generate or generate_text.")
    return job


def ids_of(job: Job) -> Iterator[int]:
    """The ids of a job that has one row."""
    return (int(to_numpy(chosen)[0]) for chosen in shown(job))


def _prepare_steps(model: BloomForCausalLM, input_ids: Any, attention_mask: Any = None, **settings: Any) -> Job:
    job = prepare(model, input_ids, attention_mask, **settings)
    if job.settings.num_beams > 1:
        raise InputError(f"num_beams is {job.settings.num_beams}: beams are not known before the end. Use generate.")
    return job


def shown(job: Job) -> Iterator[Array]:
    """The ids `[B * N]` of each step, which callback and streamer see before."""
    begin(job)
    for chosen in steps_of(job):
        show(job, chosen)
        yield chosen
    end(job)


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
    job.alone = job.callback is None and job.streamer is None
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
    return GenerateDecoderOnlyOutput(sequences, **job.result.fields())
