"""BLOOM: configuration, parameters, and the way from ids to hidden states and logits, and back as gradients.

    ids -> embedding -> LayerNorm -> block 0 ... block L-1 -> LayerNorm -> hidden states -> logits -> loss

A model holds `config`, and `params`, a flat dictionary from checkpoint names to arrays. Everything that is
computed is computed by the functions in `minibloom.layers`; what stands here joins them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import numpy

from . import backend as backends
from .backend import Array
from .cache import Cache
from .config import BloomConfig, parameter_shapes
from .errors import InputError, suggest
from .files import SHIPPED
from .layers.alibi import alibi_bias
from .layers.linear import linear, linear_backward
from .layers.run import Run, Watch, unwatched
from .layers.transformer import transformer, transformer_backward
from .losses import IGNORE, cross_entropy, shift
from .outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, ModelOutput
from .trace import Tape, Trace

DTYPES = ("float32", "float64")  # to compute in; files may hold float16 and bfloat16 too

RETIRED = {
    "position_ids": "BLOOM has no position embeddings; ALiBi takes positions from attention_mask.",
    "token_type_ids": "BLOOM has no token types.",
    "cache_position": "The cache knows its own length.",
    "past": "It is called past_key_values.",
}
Loaded = TypeVar("Loaded", bound="PreTrainedModel")


class PreTrainedModel:
    """What all models share: parameters, loading and saving, the checks at the border, the pass and its backward.

    `Model(config, seed=0, dtype="float32", backend="numpy")` has new random parameters; `from_pretrained`
    reads a checkpoint.
    """

    prefix: ClassVar[str] = "transformer."  # before the base model's names, in the file of a model with a head

    def __init__(self, config: BloomConfig, seed: int = 0, dtype: str = "float32", backend: str = "numpy") -> None:
        xp, dtype = backends.load(backend), checked_dtype(dtype)
        self._assign(config, initial_params(self.shapes(config), config, seed, dtype, xp), dtype)

    def _assign(self, config: BloomConfig, params: dict[str, Array], dtype: str) -> None:
        self.config, self.params, self.dtype = config, params, dtype

    @classmethod
    def shapes(cls, config: BloomConfig) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of this kind of model."""
        return parameter_shapes(config)

    @classmethod
    def from_pretrained(
        cls: type[Loaded],
        path_or_repo: str | Path | None = None,
        dtype: str | None = None,
        backend: str = "numpy",
        revision: str | None = None,
        **config_changes: Any,
    ) -> Loaded:
        """Load a checkpoint in safetensors form from a folder, or from a repository on the Hugging Face hub.

        Without an argument: the small BLOOM that ships with minibloom. `dtype` is the precision to compute in,
        "float32" unless said otherwise; a file in float16 or bfloat16 is widened as it is read. Further keywords
        change fields of the configuration.
        """
        from .checkpoint import load_params

        xp, dtype = backends.load(backend), checked_dtype(dtype or "float32")
        place = SHIPPED if path_or_repo is None else path_or_repo
        config, params = load_params(place, cls.shapes, dtype, xp, revision, config_changes)
        model = cls.__new__(cls)
        model._assign(config, params, dtype)
        return model

    def save_pretrained(self, folder: str | Path, dtype: str | None = None, max_shard_size: int = 5 * 10**9) -> None:
        """Write `config.json` and safetensors into `folder`, as "float16", "bfloat16", "float32" or "float64".

        transformers' `from_pretrained` reads the folder too.
        """
        from .checkpoint import write_checkpoint

        config = self.config.replace(architectures=[type(self).__name__])
        write_checkpoint(folder, self.params, config, dtype or self.dtype, self.prefix, max_shard_size)

    @property
    def xp(self) -> ModuleType:
        """The array library of the parameters, as a module."""
        return backends.namespace(self.params["ln_f.weight"])

    @property
    def backend(self) -> str:
        """The array library of the parameters: "numpy" or "cupy"."""
        return self.xp.__name__

    def num_parameters(self) -> int:
        """How many numbers are learnt; a tied head counts once."""
        return sum(p.size for p in self.params.values())

    def __repr__(self) -> str:
        c = self.config
        return (
            f"{type(self).__name__}({self.num_parameters():,} parameters: {c.n_layer} blocks, {c.n_head} heads, "
            f"hidden size {c.hidden_size}, vocabulary {c.vocab_size:,}; {self.dtype}, {self.backend})"
        )

    # --- the pass that all heads start from ---

    def _base(
        self,
        input_ids: Any = None,
        past_key_values: Cache | None = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        train: bool = False,
        seed: int | None = None,
        trace: Trace | None = None,
        **unknown: Any,
    ) -> tuple[BaseModelOutputWithPast, Watch]:
        """The base model's output, and the watch that a head must show its own steps to."""
        if unknown:
            raise _unknown(next(iter(unknown)), self._arguments())
        c = self.config
        x = self._check_input(input_ids, inputs_embeds)
        if seed is not None and not train:
            raise InputError(f"seed is {seed} without train=True: only dropout draws numbers in a forward pass.")
        if trace is not None:
            trace.start(c.n_layer)
        B, S = x.shape[:2]
        cache = past_key_values
        if cache is None and _or(use_cache, c.use_cache):
            cache = Cache(c.n_layer)
        if cache is not None:
            _check_cache(cache, c, B, self.dtype)
        mask, visible = self._masks(attention_mask, B, S, 0 if cache is None else cache.length)

        hidden_names, attention_names = [], []  # of the steps that the caller wants back
        if _or(output_hidden_states, c.output_hidden_states):
            hidden_names = ["word_embeddings_layernorm", *(f"h.{i}" for i in range(c.n_layer - 1)), "ln_f"]
        if _or(output_attentions, c.output_attentions):
            attention_names = [f"h.{i}.self_attention.weights" for i in range(c.n_layer)]
        kept: dict[str, Array] = dict.fromkeys(hidden_names + attention_names)

        run = Run(
            config=c,
            alibi=alibi_bias(mask, c.n_head, self.dtype),
            visible=visible,
            cache=cache,
            head_mask=None if head_mask is None else self._check_head_mask(head_mask),
            rng=numpy.random.default_rng(seed) if train else None,
            watch=_watch(trace, kept),
        )
        ids, embeds = (x, None) if inputs_embeds is None else (None, x)
        hidden = transformer(ids, embeds, self.params, run)
        if cache is not None:
            cache.advance(S)

        hidden_states = tuple(kept[name] for name in hidden_names)
        attentions = tuple(kept[name] for name in attention_names)
        return BaseModelOutputWithPast(hidden, cache, hidden_states or None, attentions or None), run.watch

    # --- the border: what a caller gave is checked here, before any work is done ---

    def _arguments(self) -> list[str]:
        """Names of what a call of this model accepts, in order."""
        named = [*inspect.signature(type(self).__call__).parameters][1:-1]  # without self and **options
        return [*named, "train", "seed", "trace"]

    def _by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self._arguments(), args, strict=False)), **kwargs}

    def _check_input(self, input_ids: Any, inputs_embeds: Any) -> Array:
        """The one of both that is given: ids `[B, S]` or embeddings `[B, S, E]`."""
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise InputError(f"expected input_ids or inputs_embeds, got {given}.")
        return self.check_ids(input_ids) if inputs_embeds is None else self._check_embeds(inputs_embeds)

    def check_ids(self, input_ids: Any) -> Array:
        """`input_ids` as an integer array `[B, S]`; an InputError says what is wrong with it."""
        ids, V = backends.asarray(input_ids, self.xp, "input_ids"), self.config.vocab_size
        if ids.ndim != 2 or ids.size == 0:
            raise InputError(
                f"input_ids has shape {list(ids.shape)}, expected [batch, length] with at least one token"
                + (": wrap a single sequence in a list." if ids.ndim == 1 and ids.size else ".")
            )
        if ids.dtype.kind not in "iu":
            raise InputError(f"input_ids holds {ids.dtype}, expected whole numbers.")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= V:
            raise InputError(
                f"input_ids holds {low if low < 0 else high}, expected ids from 0 to {V - 1}. "
                "Does the tokenizer belong to this model?"
            )
        return ids

    def _check_embeds(self, inputs_embeds: Any) -> Array:
        embeds, E = backends.asarray(inputs_embeds, self.xp, "inputs_embeds"), self.config.hidden_size
        if embeds.ndim != 3 or embeds.shape[2] != E or embeds.size == 0:
            raise InputError(f"inputs_embeds has shape {list(embeds.shape)}, expected [batch, length, {E}].")
        if embeds.dtype.kind not in "fiu":
            raise InputError(f"inputs_embeds holds {embeds.dtype}, expected numbers.")
        return embeds.astype(self.dtype, copy=False)

    def _check_head_mask(self, head_mask: Any) -> Array:
        factors, L, H = backends.asarray(head_mask, self.xp, "head_mask"), self.config.n_layer, self.config.n_head
        if factors.shape not in ((H,), (L, H)):
            raise InputError(
                f"head_mask has shape {list(factors.shape)}, expected [{H}], for every block, or [{L}, {H}]."
            )
        return self.xp.broadcast_to(factors.astype(self.dtype), (L, H))

    def _masks(self, attention_mask: Any, B: int, S: int, past: int) -> tuple[Array, Array | None]:
        """The mask over all keys `[B or 1, T]`, and which query may see which key `[B or 1, 1, S, T]`, None for all."""
        xp, T = self.xp, past + S
        causal = xp.arange(T) <= xp.arange(past, T)[:, None]  # [S, T]: no query sees a later key
        if attention_mask is None:
            return xp.ones((1, T), dtype="int64"), None if S == 1 else causal[None, None]
        mask = backends.asarray(attention_mask, xp, "attention_mask")
        if mask.shape != (B, T):
            cached = f": {past} cached and {S} new positions" if past else ""
            raise InputError(f"attention_mask has shape {list(mask.shape)}, expected [{B}, {T}]{cached}.")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError("attention_mask holds other numbers than 0 (padding) and 1 (token).")
        return mask.astype("int64"), causal & mask.astype(bool)[:, None, None, :]


class BloomModel(PreTrainedModel):
    """BLOOM without a head: ids in, hidden states out."""

    prefix = ""

    def __call__(
        self,
        input_ids: Any = None,
        past_key_values: Cache | None = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Hidden states of `input_ids [B, S]`, or of `inputs_embeds [B, S, E]`.

        past_key_values: the cache of earlier calls: it is extended in place, and only new tokens are given.
        attention_mask: `[B, T]` over cached and new positions, 1 = token, 0 = padding, at either side or between.
        head_mask: `[H]` or `[L, H]`, factors on each head's attention weights.
        use_cache, output_attentions, output_hidden_states, return_dict: config's fields of these names, if None.
        Options: `train=True` switches dropout on, with numbers drawn from `seed`; `trace`, a `Trace`, watches or
        edits the named steps.

        Returns `BaseModelOutputWithPast`, or with `return_dict=False` the tuple of its fields that are not None.
        """
        out, _ = self._base(
            input_ids, past_key_values, attention_mask, head_mask, inputs_embeds,
            use_cache, output_attentions, output_hidden_states, **options,
        )  # fmt: skip
        return _returned(out, return_dict, self.config)

    def value_and_grad(self, *args: Any, upstream: Any, trace: Trace | None = None, **kwargs: Any) -> Any:
        """The output of the same call, and the gradient of `sum(upstream * last_hidden_state)` by parameter name.

        `upstream [B, S, E]`: a bare model has no loss, so its backward starts from a gradient that is given.
        """
        given = self._by_name(args, kwargs)
        x = self._check_input(given.get("input_ids"), given.get("inputs_embeds"))
        d, shape = backends.asarray(upstream, self.xp, "upstream"), (*x.shape[:2], self.config.hidden_size)
        if d.shape != shape:
            raise InputError(f"upstream has shape {list(d.shape)}, expected {list(shape)} like last_hidden_state.")
        tape = Tape(trace)
        out = self(*args, **{"use_cache": False, **kwargs, "trace": tape, "return_dict": True})
        grads: dict[str, Array] = {}
        transformer_backward(d.astype(self.dtype), self.params, self.config, tape, grads)
        return out, {name: grads[name] for name in self.params}


class BloomForCausalLM(PreTrainedModel):
    """BLOOM that predicts the next token: each hidden state times the embedding matrix gives the logits."""

    @classmethod
    def shapes(cls, config: BloomConfig) -> dict[str, tuple[int, ...]]:
        head = {} if config.tie_word_embeddings else {"lm_head.weight": (config.vocab_size, config.hidden_size)}
        return {**parameter_shapes(config), **head}

    @property
    def head(self) -> str:
        """Name of the matrix that turns hidden states into logits: the embedding's own, unless config unties them."""
        return "word_embeddings.weight" if self.config.tie_word_embeddings else "lm_head.weight"

    def __call__(
        self,
        input_ids: Any = None,
        past_key_values: Cache | None = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        **options: Any,
    ) -> Any:
        """Logits of the token after each position; arguments as for `BloomModel`, and

        labels: `[B, S]`, each the id of the token at its own position (they are shifted here: the logits at t
            are compared with the label at t + 1), or -100 where it does not count. Gives `loss`, a mean.
        logits_to_keep: compute logits for the last so many positions only; 0 means all.

        Returns `CausalLMOutputWithPast`, or with `return_dict=False` the tuple of its fields that are not None.
        """
        labels = None if labels is None else self._check_labels(labels, input_ids, inputs_embeds, logits_to_keep)
        if not isinstance(logits_to_keep, int) or logits_to_keep < 0:
            raise InputError(f"logits_to_keep is {logits_to_keep!r}, expected 0 (all) or a number of positions.")
        base, watch = self._base(
            input_ids, past_key_values, attention_mask, head_mask, inputs_embeds,
            use_cache, output_attentions, output_hidden_states, **options,
        )  # fmt: skip
        hidden = base.last_hidden_state
        kept = hidden[:, -logits_to_keep:]  # all of them where it is 0, as -0 is 0
        logits = watch("lm_head", linear(kept, self.params[self.head]))  # [B, S, E] -> [B, S, V]
        loss = None
        if labels is not None:
            loss, dlogits = cross_entropy(logits, shift(labels))
            watch("lm_head.grad", dlogits)  # [B, S, V]
        out = CausalLMOutputWithPast(loss, logits, base.past_key_values, base.hidden_states, base.attentions)
        return _returned(out, return_dict, self.config)

    def value_and_grad(self, *args: Any, trace: Trace | None = None, **kwargs: Any) -> Any:
        """The output of the same call, `labels` included, and the gradient of its loss by parameter name."""
        if self._by_name(args, kwargs).get("labels") is None:
            raise InputError("value_and_grad needs labels: the gradient is that of the loss.")
        tape = Tape(trace)
        out = self(*args, **{"use_cache": False, **kwargs, "trace": tape, "return_dict": True})
        grads: dict[str, Array] = {}
        d, grads[self.head], _ = linear_backward(tape["lm_head.grad"], tape["ln_f"], self.params[self.head])
        transformer_backward(d, self.params, self.config, tape, grads)
        return out, {name: grads[name] for name in self.params}

    def generate(self, input_ids: Any, **settings: Any) -> Array:
        """Prompt `[B, S]` and continuation as ids `[B, S + new]`. Settings as in `minibloom.generation.generate_steps`.

        model.generate(input_ids, attention_mask=mask, max_new_tokens=50, do_sample=True, top_p=0.9, seed=0)
        """
        from .generation import generate

        return generate(self, input_ids, **settings)

    def _check_labels(self, labels: Any, input_ids: Any, inputs_embeds: Any, logits_to_keep: int) -> Array:
        labels, V = backends.asarray(labels, self.xp, "labels"), self.config.vocab_size
        expected = self._check_input(input_ids, inputs_embeds).shape[:2]
        if labels.shape != expected:
            raise InputError(f"labels has shape {list(labels.shape)}, expected {list(expected)} like the input.")
        if labels.dtype.kind not in "iu":
            raise InputError(f"labels holds {labels.dtype}, expected whole numbers.")
        wrong = labels[(labels != IGNORE) & ((labels < 0) | (labels >= V))]
        if wrong.size:
            raise InputError(f"labels holds {int(wrong[0])}, expected ids from 0 to {V - 1}, or {IGNORE} to ignore.")
        if logits_to_keep:
            raise InputError("logits_to_keep cannot be used with labels: the loss needs the logits of all positions.")
        return labels.astype("int64", copy=False)  # -100 must fit, and unsigned ids have no room for it


# --- small helpers ---


def initial_params(
    shapes: dict[str, tuple[int, ...]], config: BloomConfig, seed: int, dtype: str, xp: ModuleType
) -> dict[str, Array]:
    """New parameters: matrices normal with standard deviation `initializer_range`, norms 1, biases 0.

    Drawn on the host in float32, so that a seed means the same model on every backend and in every dtype.
    """
    rng = numpy.random.default_rng(seed)
    params: dict[str, Array] = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            value = numpy.full(shape, 1.0 if name.endswith(".weight") else 0.0, dtype)
        else:
            value = (rng.standard_normal(shape, dtype=numpy.float32) * config.initializer_range).astype(dtype)
        params[name] = xp.asarray(value)
    return params


def checked_dtype(dtype: Any) -> str:
    """`dtype` as a string, if minibloom computes in it."""
    name = getattr(dtype, "__name__", str(dtype))
    if name not in DTYPES:
        raise InputError(
            f"dtype={name!r}: minibloom computes in {' or '.join(DTYPES)}. Checkpoints in float16 and bfloat16 load "
            "too (they are widened), and save_pretrained(folder, dtype='float16') writes them."
        )
    return name


def _check_cache(cache: Any, config: BloomConfig, batch: int, dtype: str) -> None:
    if not isinstance(cache, Cache):
        raise InputError(f"past_key_values is a {type(cache).__name__}, expected a minibloom Cache.")
    if len(cache) != config.n_layer:
        raise InputError(f"past_key_values is a cache of {len(cache)} blocks, expected {config.n_layer}.")
    if cache.batch_size not in (None, batch):
        raise InputError(f"past_key_values holds a batch of {cache.batch_size}, the input one of {batch}.")
    if cache.length:
        keys, _ = cache[0]
        given = f"{keys.shape[1]} heads of size {keys.shape[3]} in {keys.dtype}"
        expected = f"{config.n_head} heads of size {config.head_dim} in {dtype}"
        if given != expected:
            raise InputError(f"past_key_values holds {given}, expected {expected}: it belongs to another model.")


def _unknown(name: str, known: Sequence[str]) -> InputError:
    why = RETIRED.get(name) or f"The arguments are {', '.join(known)}.{suggest(name, known)}"
    return InputError(f"there is no argument {name!r}. {why}")


def _or(given: bool | None, default: bool) -> bool:
    return default if given is None else given


def _watch(trace: Trace | None, kept: dict[str, Array]) -> Watch:
    """A watch that shows each step to the caller's trace, and fills the names in `kept` with what flows on."""
    seen = unwatched if trace is None else trace
    if not kept:
        return seen

    def watch(name: str, value: Array) -> Array:
        value = seen(name, value)
        if name in kept:
            kept[name] = value
        return value

    return watch


def _returned(out: ModelOutput, return_dict: bool | None, config: BloomConfig) -> Any:
    return out if _or(return_dict, config.return_dict) else out.to_tuple()
