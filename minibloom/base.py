"""What all models share: parameters, loading and saving, the checks at the border, the pass and its backward.

A model holds `config`, and `params`, a flat dictionary from checkpoint names to arrays. Everything that is
computed is computed by the functions in `minibloom.layers`; what stands here joins them. The models themselves,
each a head on this base, are in `models.py`.
"""

from __future__ import annotations

import copy
import inspect
import math
import reprlib
import warnings
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import numpy

from . import backend as backends
from .alignment import aligned_copy, aligned_empty
from .backend import Array
from .buffers import LEAST, Buffers
from .cache import Cache, StaticCache
from .compiled import numpy_alone
from .compiled_choice import Ahead
from .config import BloomConfig, parameter_shapes
from .cuda.attention import can_tile
from .display import Html, by_block, code, details, paragraph, table, together
from .errors import InputError, suggest
from .files import SHIPPED
from .layers.alibi import alibi_bias
from .layers.block import block
from .layers.run import Run, Unwatched, Watch
from .layers.small_weights import SmallWeight
from .layers.transformer import transformer, transformer_backward
from .losses import IGNORE
from .memory import check_room, what_fits
from .outputs import BaseModelOutputWithPast, ModelOutput
from .precision import asked_precision, checked_dtype, checked_weights, small_weights_run
from .threads import on_all_cores
from .trace import Tape, Trace, check_trace, step_names, steps_at

RETIRED = {
    "position_ids": "BLOOM has no position embeddings; ALiBi takes positions from attention_mask.",
    "token_type_ids": "BLOOM has no token types.",
    "cache_position": "The cache knows its own length.",
    "past": "It is called past_key_values.",
}
INSTEAD = {  # what transformers' models have besides, and what to use in its place
    "backward": "value_and_grad, which returns output and gradients",
    "cpu": "backend='numpy' in from_pretrained",
    "cuda": "backend='cupy' in from_pretrained",
    "device": "backend, 'numpy' or 'cupy'",
    "forward": "the model itself: model(input_ids)",
    "get_input_embeddings": 'params["word_embeddings.weight"]',
    "get_output_embeddings": "params[model.head_matrix]",
    "gradient_checkpointing_enable": "recompute=True in value_and_grad, or in minibloom.settings.TrainingSettings",
    "half": "weights='float16' in from_pretrained",
    "lm_head": "params[model.head_matrix]",
    "load_state_dict": "params, a dictionary whose arrays can be changed",
    "modules": "step_names(), what a Trace watches and edits, or params",
    "named_modules": "step_names(), what a Trace watches and edits, or params",
    "named_parameters": "params.items()",
    "parameters": "params.values(), or num_parameters()",
    "prune_heads": "Trace(edits={'h.0.self_attention.weights': ablate(head=3)}), or head_mask",
    "push_to_hub": "save_pretrained(folder), then huggingface_hub.upload_folder",
    "register_forward_hook": "trace=Trace(...) in a call, which sees every step, and edits it",
    "requires_grad_": "AdamW and its step with those of params that are to learn",
    "resize_token_embeddings": 'params["word_embeddings.weight"] with other rows, and config.replace(vocab_size=...)',
    "save": "save_pretrained(folder)",
    "state_dict": "params, a dictionary from names to arrays",
    "to": "backend, dtype and weights in from_pretrained",
    "train": "train=True in a call, which draws dropout, or minibloom.training.train for a whole run",
    "transformer": "params, by names as 'h.0.mlp.dense_h_to_4h.weight', and a Trace for what flows",
    "zero_grad": "value_and_grad, which returns new gradients each time",
}
NOT_TO_LOAD = {  # what transformers' from_pretrained has besides, and what is here in its place
    "attn_implementation": "There is one attention, which picks the fastest of its ways itself.",
    "cache_dir": "Set the environment variable HF_HOME, or give the path of a folder.",
    "device_map": "There is backend='cupy' for a GPU, and stream=True for a model larger than memory.",
    "local_files_only": "Set the environment variable HF_HUB_OFFLINE to 1, or give the path of a folder.",
    "low_cpu_mem_usage": "Leave it out: tensors are always read straight to where they stay.",
    "token": "Log in with `hf auth login`, or set the environment variable HF_TOKEN.",
    "trust_remote_code": "Leave it out: no code that comes with a checkpoint is ever run.",
}
# With `slow_but_exact` and `pretraining_tp` above 1, transformers forgets these two. The machines that trained BLOOM
# added them once, after the sum over slices, and so does minibloom, unless a model is made with `hf_compat=True`.
DROPPED_BIASES = ("self_attention.dense.bias", "mlp.dense_4h_to_h.bias")
Loaded = TypeVar("Loaded", bound="PreTrainedModel")


class PreTrainedModel:
    """What all models share: parameters, loading and saving, the checks at the border, the pass and its backward.

    `Model(config, seed=0, dtype="float32", backend="numpy")` has new random parameters; `from_pretrained`
    reads a checkpoint. `hf_compat=True` computes what transformers computes even where that is a slip of its own:
    see `DROPPED_BIASES`.
    """

    prefix: ClassVar[str] = "transformer."  # before the base model's names, in the file of a model with a head
    head: ClassVar[str] = ""  # what the head's parameters are called, and its steps
    labels: ClassVar[tuple[str, ...]] = ()  # the arguments that the loss needs
    streamed_from: Path | None = None  # the folder whose files are read while the model runs

    def __init__(
        self,
        config: BloomConfig,
        seed: int = 0,
        dtype: str = "float32",
        backend: str = "numpy",
        hf_compat: bool = False,
    ) -> None:
        xp, dtype, shapes = backends.load(backend), checked_dtype(dtype), self.shapes(checked_config(config))
        check_room(xp, shapes.values(), dtype, f"this {type(self).__name__}")
        self._assign(config, initial_params(shapes, config, seed, dtype, xp), dtype, hf_compat)

    def _assign(self, config: BloomConfig, params: Any, dtype: str, hf_compat: bool) -> None:
        self.config, self.params, self.dtype, self.hf_compat = config, params, dtype, hf_compat
        self._buffers, self._passes = Buffers(), Buffers()  # of training steps, and of passes alone

    @classmethod
    def shapes(cls, config: BloomConfig) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter of this kind of model."""
        return {**parameter_shapes(config), **cls.head_shapes(config)}

    @classmethod
    def head_shapes(cls, config: BloomConfig) -> dict[str, tuple[int, ...]]:
        """Name and shape of the parameters that the head adds."""
        return {}

    @classmethod
    def from_pretrained(
        cls: type[Loaded],
        path_or_repo: str | Path | None = None,
        dtype: Any = None,
        backend: str = "numpy",
        revision: str | None = None,
        seed: int = 0,
        hf_compat: bool = False,
        weights: str | None = None,
        stream: bool = False,
        hold_embedding: bool = True,
        torch_dtype: Any = None,
        **config_changes: Any,
    ) -> Loaded:
        """Load a checkpoint in safetensors form from a folder, or from a repository on the Hugging Face hub.

        Without an argument: the small BLOOM that ships with minibloom. `dtype` is the precision to compute in,
        "float32" unless said otherwise; a file in float16 or bfloat16 is widened as it is read. Further keywords
        change fields of the configuration.

        weights: keep matrices in memory as "bfloat16", "float16" or "int8" and widen them while they are used (see
            `layers/small_weights.py`); "float32" or "float64", the same as `dtype`, as arrays. If not given: as
            arrays, but those that are int8 in the file as int8. Such a model runs, and cannot be trained before it is
            `widened()`. On a GPU, 16 bits are also what products are computed in (see `layers/tensor_cores.py`), and
            there is no int8.
        torch_dtype: the same as `dtype`. In either "float16" and "bfloat16", as transformers has them, mean `weights`.
        stream: leave blocks in the file, and read each, as it is stored, while the one before it computes: the memory
            of two blocks and the embedding (see `streaming.py`). With `hold_embedding=False`, of two blocks alone.

        A classifier's head that the checkpoint does not have is drawn anew from `seed`, with a warning that says so:
        it has to be trained before its answers mean anything.
        """
        from .checkpoint import find_params
        from .streaming import StreamedParams
        from .tensor_file import read_tensors

        refuse_loading(config_changes)
        dtype, weights = asked_precision(dtype, torch_dtype, weights)
        xp = backends.load(backend)
        weights = checked_weights(weights, dtype, backend)
        place = SHIPPED if path_or_repo is None else path_or_repo
        if stream and (weights is not None or not small_weights_run(dtype, backend)):
            raise InputError(
                "stream=True computes in float32 with NumPy, with weights as the file has them: "
                "leave dtype, backend and weights out."
            )
        if not hold_embedding and not stream:
            raise InputError("hold_embedding=False is for stream=True: without it, all parameters are in memory.")
        config, matched = find_params(place, cls.shapes, revision, config_changes)
        shapes = cls.shapes(config)
        check_room(xp, shapes.values(), dtype, str(place), weights)
        params: Any = StreamedParams(matched, hold_embedding) if stream else read_tensors(matched, dtype, xp, weights)
        new = {name: shape for name, shape in shapes.items() if name not in params}
        if new:
            params = ChainMap(initial_params(new, config, seed, dtype, xp), params)
            warnings.warn(
                f"{place} has no {', '.join(new)}: this head of {cls.__name__} is new, drawn from seed {seed}. "
                "Train it before you use it.",
                stacklevel=2,
            )
        model = cls.__new__(cls)
        model._assign(config, params if stream else {name: params[name] for name in shapes}, dtype, hf_compat)
        model.streamed_from = next(iter(matched.values())).file.parent if stream else None
        return model

    def save_pretrained(self, folder: str | Path, dtype: str | None = None, max_shard_size: int = 5 * 10**9) -> None:
        """Write `config.json` and safetensors into `folder`, as "float16", "bfloat16", "float32" or "float64".

        transformers' `from_pretrained` reads the folder too. As "int8", with a scale for each row, only minibloom does.
        """
        from .checkpoint import write_checkpoint

        if self.streamed_from is not None and Path(folder).expanduser().resolve() == self.streamed_from.resolve():
            raise InputError(f"{folder} holds the files that this model is read from: give another folder.")
        config = self.config.replace(architectures=[type(self).__name__])
        write_checkpoint(folder, self.params, config, dtype or self.weights, self.prefix, max_shard_size)

    @property
    def weights(self) -> str:
        """How the matrices are kept: as arrays of "float32" or "float64", or as "bfloat16", "float16" or "int8"."""
        table = self.params["word_embeddings.weight"]
        return table.dtype if isinstance(table, SmallWeight) else self.dtype

    def widened(self: Loaded) -> Loaded:
        """The same model with every parameter as an array, in the precision that it computes in: one to train."""
        model = copy.copy(self)  # with what else it has, as a language model its generation_config
        params = {
            name: aligned_copy(p.widen().astype(self.dtype) if isinstance(p, SmallWeight) else p)
            for name, p in self.params.items()
        }
        model._assign(self.config, params, self.dtype, self.hf_compat)
        model.streamed_from = None
        return model

    @property
    def xp(self) -> ModuleType:
        """The array library of the parameters, as a module."""
        if "ln_f.weight" not in self.params:
            self.check_params()  # which says that it is missing
        return backends.namespace(self.params["ln_f.weight"])

    @property
    def backend(self) -> str:
        """The array library of the parameters: "numpy" or "cupy"."""
        return self.xp.__name__

    def init_cache(self, batch_size: int, max_length: int) -> StaticCache:
        """An empty cache with all its memory, for `batch_size` rows of `max_length` positions of this model."""
        c = self.config
        return StaticCache(c.n_layer, batch_size, c.n_head, max_length, c.head_dim, self.dtype, self.xp)

    def step_names(self) -> list[str]:
        """The names of all steps of a pass, in order, those of training included: what a `Trace` can watch or edit."""
        return step_names(self.config.n_layer, self.head)

    def axis_sizes(self, batch: int, new: int, cache: Cache | None = None) -> dict[str, int]:
        """The sizes of a pass by letter, as a `Trace` is told of them: of `new` positions behind those of a cache."""
        c = self.config
        held, seen = (0, 0) if cache is None else (cache.length, cache.seen)
        model = {"H": c.n_head, "D": c.head_dim, "E": c.hidden_size, "V": c.vocab_size, "N": c.num_labels}
        return {"B": batch, "S": new, "T": held + new, "end": seen + new, **model}

    def num_parameters(self) -> int:
        """How many numbers are learnt; a tied head counts once."""
        return sum(math.prod(shape) for shape in self.shapes(self.config).values())

    def __repr__(self) -> str:
        c = self.config
        kept = "" if self.weights == self.dtype else f" from {self.weights} weights"
        return (
            f"{type(self).__name__}({self.num_parameters():,} parameters: {c.n_layer} blocks, {c.n_head} heads, "
            f"hidden size {c.hidden_size}, vocabulary {c.vocab_size:,}; {self.dtype}{kept}, {self.backend})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the facts, and the parameters of each block."""
        c, shapes = self.config, self.shapes(self.config)

        def parameters(names: Sequence[str]) -> Html:
            rows = [[code(name), list(shapes[name]), f"{math.prod(shapes[name]):,}"] for name in names]
            return table(["parameter", "shape", "numbers"], rows, left=2)

        def count(names: Sequence[str]) -> str:
            return f"{sum(math.prod(shapes[name]) for name in names):,}"

        facts: list[list[object]] = [
            ["parameters", f"{self.num_parameters():,}"],
            ["blocks", c.n_layer],
            ["hidden size, E", c.hidden_size],
            ["heads, H", c.n_head],
            ["head size, D", c.head_dim],
            ["vocabulary, V", f"{c.vocab_size:,}"],
            ["computes in", f"{self.dtype}, with {self.backend}"],
            ["keeps weights as", self.weights],
        ]
        parts = [
            details(f"{block}: {count(names)} parameters", parameters(names), block == "h.0")
            if block
            else parameters(names)
            for block, names in by_block(shapes)
        ]
        return together(paragraph(type(self).__name__), table([], facts, left=2), *parts)

    def __getattr__(self, name: str) -> Any:  # called only for what is not there
        public = [known for known in dir(self) if not known.startswith("_")]
        raise AttributeError(f"{type(self).__name__} has no {name!r}.{suggest(name, public, INSTEAD)}")

    def eval(self: Loaded) -> Loaded:
        """The model as it is: a pass draws dropout only if its call says `train=True`."""
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise InputError(f"{type(self).__name__} is no model yet: use one of those in minibloom.models.")

    # --- the pass that all heads start from ---

    def _base(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        head: tuple[str, int] | None = None,
        /,  # what a head passes on as an option is none of these: one that it does not have is unknown
        train: bool = False,
        seed: int | None = None,
        trace: Trace | None = None,
        checked: bool = False,
        ahead: Ahead | None = None,
        **unknown: Any,
    ) -> tuple[BaseModelOutputWithPast, Run]:
        """The base model's output; and the pass, with the watch that sees a head's steps and the draws of dropout.

        checked: ids and mask are the library's own arrays, and known to be right, as generation knows of what it chose.
            They are not looked at, so nothing waits for a device.
        ahead: how the pass, where it is a loop, may go on with the next tokens by itself. The cache has room for them,
            and drops none.
        head: the name of the weight that the hidden states are multiplied with next, and how many of the last positions
            (0: all). Where that has been computed on the way, it stands in the pass's `logits`.
        """
        if unknown:
            raise unknown_argument(next(iter(unknown)), self._arguments())
        check_trace(trace)
        c = self.config
        x = input_ids if checked else self._check_input(input_ids, inputs_embeds)
        if seed is not None and not train:
            raise InputError(f"seed is {seed} without train=True: only dropout draws numbers in a forward pass.")
        B, S = x.shape[:2]
        cache = past_key_values
        if cache is None and _or(use_cache, c.use_cache):
            cache = Cache(c.n_layer)
        if cache is not None:
            cache = cache if isinstance(cache, Cache) else Cache.from_tuple(cache, B, c.n_head, c.head_dim)
            cache.check(c.n_layer, c.n_head, c.head_dim, self.dtype, B, S, self.xp)
        past, window = (0, None) if cache is None else (cache.length, cache.window)
        mask, padded = self._mask(attention_mask, B, S, past, checked)

        hidden_names, attention_names = [], []  # of the steps that the caller wants back
        if _or(output_hidden_states, c.output_hidden_states):
            hidden_names = ["word_embeddings_layernorm", *(f"h.{i}" for i in range(c.n_layer - 1)), "ln_f"]
        if _or(output_attentions, c.output_attentions):
            attention_names = [f"h.{i}.self_attention.weights" for i in range(c.n_layer)]
        kept: dict[str, Array] = dict.fromkeys(hidden_names + attention_names)

        seen: Watch = Unwatched() if trace is None else trace
        run = Run(
            config=c,
            new=S,
            mask=mask,
            padded=padded,
            alibi=alibi_bias(mask, c.n_head, self.dtype),
            cache=cache,
            window=window,
            head_mask=None if head_mask is None else self._check_head_mask(head_mask),
            rng=generator(seed) if train else None,
            watch=_Keeping(seen, kept) if kept else seen,
            head=head,
            ahead=ahead,
        )
        if trace is not None:  # the last check: a call that is refused leaves a trace as it was
            trace.start(self.step_names(), self.axis_sizes(B, S, cache))
        if isinstance(trace, Tape):  # without its watch, which is the tape: a circle holds memory until Python looks
            trace.run = replace(run, watch=Unwatched())
        ids, embeds = (x, None) if inputs_embeds is None else (None, x)
        with self._within_memory(), self._reused_memory(B * S, run.watch):
            hidden = transformer(ids, embeds, self._params_read(), run)

        hidden_states = tuple(kept[name] for name in hidden_names)
        attentions = tuple(kept[name] for name in attention_names)
        return BaseModelOutputWithPast(hidden, cache, hidden_states or None, attentions or None), run

    def _within_memory(self) -> AbstractContextManager[None]:
        """Streamed, as memory is short, a model takes none of Numba's loops: it needs 0.1 GB of its own."""
        return nullcontext() if isinstance(self.params, dict) else numpy_alone()

    def _reused_memory(self, tokens: int, watch: Watch) -> AbstractContextManager[None]:
        """The arrays of a pass over many tokens lie in the memory of the one before, see `buffers.py`.

        Not where a watch keeps them, or memory is short, nor on a device, which sees to it itself.
        """
        largest = tokens * 4 * self.config.hidden_size * numpy.dtype(self.dtype).itemsize  # bytes of the MLP's inside
        kept = type(watch) is not Unwatched or not isinstance(self.params, dict)
        return nullcontext() if kept or largest < LEAST or self.xp is not numpy else self._passes.reused()

    def _finish(self, run: Run, out: ModelOutput, return_dict: bool | None) -> Any:
        """What a call returns, as an object or a tuple. The pass has succeeded: what it put into the cache counts."""
        if run.cache is not None:
            run.cache.advance(run.new + run.more)
        return out if _or(return_dict, self.config.return_dict) else out.to_tuple()

    @on_all_cores
    def value_and_grad(
        self, *args: Any, trace: Trace | None = None, recompute: bool = False, at: Any = (), **kwargs: Any
    ) -> Any:
        """The output of the same call, labels included, and the gradient of its loss by parameter name.

        trace: as in the call; of its edits only those of `alibi` are known here, with which a model can be trained that
            has other slopes, or none.
        recompute: keep only what goes into each block, and compute its inside again on the way back: less memory, more
            time, the same numbers.
        at: steps, by name or pattern ("h.3", "*.context"), at which the gradient is wanted too: the loss by what flows
            there, in the step's shape, under the step's name behind those of the parameters.
        """
        call = self._by_name(args, kwargs)
        missing = [name for name in self.labels if call.get(name) is None]
        if missing:
            raise InputError(f"value_and_grad needs {' and '.join(missing)}: the gradient is that of the loss.")
        return self._differentiate(call, trace, recompute, at, self._head_backward)

    def count_labels(self, batch: Mapping[str, Any]) -> int:
        """How many numbers the loss of a call with these arguments is the mean of."""
        return sum(int((backends.to_numpy(batch[name]) != IGNORE).sum()) for name in self.labels)

    def _differentiate(
        self,
        call: Mapping[str, Any],
        trace: Trace | None,
        recompute: bool,
        at: Any,
        head_backward: Callable[[Tape, MutableMapping[str, Array]], Array],
    ) -> Any:
        """Forward with a tape, and back: through the head, whose rule is given, and through the stack."""
        self.check_params()
        if recompute and call.get("past_key_values") is not None:
            raise InputError("recompute cannot be used with past_key_values: the cache would be extended twice.")
        if self.weights != self.dtype or not isinstance(self.params, dict):
            kept = self.weights if isinstance(self.params, dict) else "they are in their files"
            raise InputError(f"this model keeps its weights as {kept}, for reading only. Train model.widened().")
        steps = steps_at(at, self.step_names())
        with self._buffers.reused():
            tape = Tape(trace, recompute, steps)
            no_cache = {"use_cache": False} if "use_cache" in self._arguments() else {}
            out = self(**{**no_cache, **call, "trace": tape, "return_dict": True})
            tape.run.alibi = tape["alibi"]  # as it was edited
            grads: dict[str, Any] = dict.fromkeys(steps)  # places for what backward meets on its way
            d = head_backward(tape, grads)  # [B, S, E], the gradient at the hidden states
            params = self._params_read()

            def again(x: Array, layer: int) -> Mapping[str, Array]:
                inside = Tape(at=steps)
                block(x, params, layer, tape.run.again(layer, inside))
                return ChainMap(inside, tape)  # type: ignore[arg-type]  # neither is written to

            transformer_backward(d, params, self.config, tape, grads, again if recompute else None, tape.forget)
        for name in self._unread():
            grads[name][:] = 0
        as_object = _or(call.get("return_dict"), self.config.return_dict)
        return out if as_object else out.to_tuple(), {name: grads[name] for name in (*self.params, *steps)}

    def _head_backward(self, tape: Mapping[str, Array], grads: MutableMapping[str, Array]) -> Array:
        """The gradient of the loss at the hidden states `[B, S, E]`; that of the head's parameters, into `grads`."""
        raise InputError(f"{type(self).__name__} has no loss to derive.")

    def _unread(self) -> list[str]:
        """Names of the parameters that a pass leaves out: none, but with `hf_compat`, where transformers does."""
        c = self.config
        drops = self.hf_compat and c.slow_but_exact and c.pretraining_tp > 1
        return [f"h.{i}.{name}" for i in range(c.n_layer) for name in DROPPED_BIASES] if drops else []

    def _params_read(self) -> Mapping[str, Array]:
        """The parameters that a pass reads."""
        unread = {name: self.xp.zeros_like(self.params[name]) for name in self._unread()}
        return ChainMap(unread, self.params) if unread else self.params

    def what_fits(self, method: str, free: int, *args: Any, **kwargs: Any) -> str:
        """What a device with `free` bytes left has room for, of a call that it had no room for: a sentence."""
        call = self._by_name(args, kwargs)
        given = call["inputs_embeds"] if call.get("input_ids") is None else call["input_ids"]
        rows, new = backends.to_numpy(given).shape[:2]
        past = call.get("past_key_values")
        return what_fits(
            self.config,
            free,
            rows,
            new,
            past=past.length if isinstance(past, Cache) else 0,
            each=numpy.dtype(self.dtype).itemsize,
            training=method == "value_and_grad" or isinstance(call.get("trace"), Tape),
            recompute=bool(call.get("recompute")),
            tiled=can_tile(self.xp, self.dtype, self.config.head_dim) and not call.get("output_attentions"),
        )

    # --- the border: what a caller gave is checked here, before any work is done ---

    def _arguments(self) -> list[str]:
        """Names of what a call of this model accepts, in order."""
        named = [*inspect.signature(type(self).__call__).parameters][1:-1]  # without self and **options
        return [*(name for name in named if name not in RETIRED), "train", "seed", "trace"]

    def _by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name; as in the call itself, what cannot be one is Python's TypeError."""
        call = inspect.signature(type(self).__call__).bind(self, *args, **kwargs).arguments
        options = call.pop("options", {})
        return {**dict([*call.items()][1:]), **options}  # without self

    def _check_input(self, input_ids: Any, inputs_embeds: Any) -> Array:
        """The one of both that is given: ids `[B, S]` or embeddings `[B, S, E]`."""
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise InputError(f"expected input_ids or inputs_embeds, got {given}.")
        return self.check_ids(input_ids) if inputs_embeds is None else self._check_embeds(inputs_embeds)

    def check_params(self) -> None:
        """Raise an InputError unless every parameter has the shape that config tells of.

        Those that are streamed are not read for that: they were held to config when they were found in their files.
        """
        if not isinstance(self.params, dict):
            return
        expected_shapes, get = self.shapes(self.config), self.params.get
        if [getattr(get(name), "shape", None) for name in expected_shapes] == [*expected_shapes.values()]:
            return  # each call comes by here, and a small model's token takes half a millisecond
        for name, expected in expected_shapes.items():
            shape = getattr(get(name), "shape", None)
            if shape != expected:
                kind = type(get(name)).__name__
                given = f"has shape {list(shape)}" if shape is not None else f"is a {kind}"
                raise InputError(
                    f"params[{name!r}] {given if name in self.params else 'is missing'}, expected an array of shape "
                    f"{list(expected)}, as model.config tells of. Put one there, or change the config to what you have."
                )

    def check_ids(self, input_ids: Any) -> Array:
        """`input_ids` as an integer array `[B, S]`; an InputError says what is wrong with it, or with `params`."""
        self.check_params()
        if isinstance(input_ids, str):
            raise InputError(
                "input_ids is text, expected ids: encoding = tokenizer([text], return_tensors='np') has them."
            )
        if isinstance(input_ids, Mapping):
            raise InputError(f"input_ids is a {type(input_ids).__name__}: give what is in it by name, as **encoding.")
        (ids, moved), V = backends.received(input_ids, self.xp, "input_ids"), self.config.vocab_size
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
        return moved

    def check_mask(self, attention_mask: Any, shape: tuple[int, ...], told: str = "") -> tuple[numpy.ndarray, Array]:
        """`attention_mask` as int64 of this shape, 1 = token, 0 = padding: on the host, and moved to the device.

        told: what an error says behind the shape that is expected.
        """
        mask, moved = backends.received(attention_mask, self.xp, "attention_mask")
        if mask.shape != shape:
            raise InputError(f"attention_mask has shape {list(mask.shape)}, expected {list(shape)}{told}.")
        if not ((mask == 0) | (mask == 1)).all():
            raise InputError("attention_mask holds other numbers than 0 (padding) and 1 (token).")
        return mask.astype("int64"), moved.astype("int64")

    def _check_embeds(self, inputs_embeds: Any) -> Array:
        self.check_params()
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
        if factors.dtype.kind not in "fiub":
            raise InputError(f"head_mask holds {factors.dtype}, expected numbers.")
        return self.xp.broadcast_to(factors.astype(self.dtype), (L, H))

    def _check_labels(
        self, labels: Any, name: str, shapes: Sequence[tuple[int, ...]], whole: bool
    ) -> tuple[numpy.ndarray, Array]:
        """`labels` as an array of one of `shapes`, of whole numbers or of finite real ones: on the host, and moved."""
        host, moved = backends.received(labels, self.xp, name)
        if host.shape not in shapes:
            expected = " or ".join(str(list(shape)) for shape in shapes)
            raise InputError(f"{name} has shape {list(host.shape)}, expected {expected}.")
        if host.dtype.kind not in ("iu" if whole else "fiu"):
            raise InputError(f"{name} holds {host.dtype}, expected {'whole' if whole else 'real'} numbers.")
        if not whole and not numpy.isfinite(host).all():
            raise InputError(f"{name} holds NaN or infinity, expected finite numbers.")
        kind = "int64" if whole else self.dtype  # -100 must fit, and unsigned types have no room for it
        return host.astype(kind), moved.astype(kind)

    def _check_classes(self, labels: Any, name: str, shape: tuple[int, ...], count: int, what: str) -> Array:
        """`labels` as whole numbers `shape`, each a class from 0 to `count - 1` or -100."""
        host, moved = self._check_labels(labels, name, [shape], whole=True)
        wrong = host[(host != IGNORE) & ((host < 0) | (host >= count))]
        if wrong.size:
            expected = f"{what} from 0 to {count - 1}, or {IGNORE} to ignore"
            raise InputError(f"{name} holds {int(wrong[0])}, expected {expected}.")
        return moved

    def _mask(self, attention_mask: Any, B: int, S: int, past: int, checked: bool = False) -> tuple[Array, bool]:
        """The mask over all keys, `[B, T]` as given, or `[1, T]` of ones; and whether there may be padding."""
        xp, T = self.xp, past + S
        if attention_mask is None:
            return xp.ones((1, T), dtype="int64"), False
        if checked:
            return attention_mask, True
        cached = f": {past} cached and {S} new positions" if past else ""
        mask, moved = self.check_mask(attention_mask, (B, T), cached)
        return moved, not mask.all()


# --- small helpers ---


def initial_params(
    shapes: dict[str, tuple[int, ...]], config: BloomConfig, seed: int, dtype: str, xp: ModuleType
) -> dict[str, Array]:
    """New parameters: matrices normal with standard deviation `initializer_range`, norms 1, biases 0.

    Drawn on the host in float32, so that a seed means the same model on every backend and in every dtype.
    """
    rng = generator(seed)
    params: dict[str, Array] = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            value = numpy.full(shape, 1.0 if name.endswith(".weight") else 0.0, dtype)
        else:
            value = rng.standard_normal(dtype=numpy.float32, out=aligned_empty(shape, "float32"))
            value *= config.initializer_range
            value = value.astype(dtype, copy=False)
        params[name] = xp.asarray(value)
    return params


def generator(seed: Any) -> numpy.random.Generator:
    """A generator of the numbers that follow from `seed`; an InputError if none do."""
    try:
        return numpy.random.default_rng(seed)
    except (TypeError, ValueError):
        raise InputError(f"seed is {seed!r}, expected a whole number of at least 0.") from None


def checked_config(config: Any) -> BloomConfig:
    """`config`, if a model can be made of it."""
    if not isinstance(config, BloomConfig):
        raise InputError(
            f"config is {reprlib.repr(config)}, expected a minibloom.BloomConfig. To read a checkpoint, use "
            "from_pretrained."
        )
    return config


def refuse_loading(given: Iterable[str]) -> None:
    """Raise an InputError if `given` names an argument that only transformers' from_pretrained has."""
    for name in given:
        if name in NOT_TO_LOAD:
            raise InputError(f"from_pretrained has no argument {name!r}. {NOT_TO_LOAD[name]}")


def unknown_argument(name: str, known: Sequence[str]) -> InputError:
    """The error about an argument that is not there: what replaced it, or what there is."""
    why = RETIRED.get(name) or f"The arguments are {', '.join(known)}.{suggest(name, known)}"
    return InputError(f"there is no argument {name!r}. {why}")


def _or(given: bool | None, default: bool) -> bool:
    return default if given is None else given


class _Keeping:
    """A watch that shows each step to another one, and fills the names in `kept` with what flows on."""

    def __init__(self, seen: Watch, kept: dict[str, Array]) -> None:
        self.seen, self.kept = seen, kept

    def __call__(self, name: str, value: Array) -> Array:
        value = self.seen(name, value)
        if name in self.kept:
            self.kept[name] = value
        return value

    def wants(self, name: str) -> bool:
        return name in self.kept or self.seen.wants(name)
