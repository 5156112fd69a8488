"""The Flax-style interface: a model is a function, and its parameters, its cache and its dropout are arguments.

    model, params = FlaxBloomForCausalLM.from_pretrained(_do_init=False)  # the model itself holds no parameters
    out = model(input_ids, params=params)
    out = model(input_ids, params=params, train=True, dropout_rng=0)

    cache = model.init_cache(batch_size=1, max_length=20)
    out = model(input_ids, attention_mask=mask, past_key_values=cache, params=params)  # the mask is [1, 20]
    out.past_key_values  # another cache, with more in it; `cache` is as it was

A call changes nothing that it is given, and the same arguments give the same result. What computes is the model of
`models.py` that `model.bind(params)` makes of the same arrays. What this interface lacks is there: `generate`, traces,
and the gradients, which no framework can derive from NumPy code: `model.bind(params).value_and_grad(...)`.

Parameters are a tree: dictionaries of dictionaries, with Flax's names, in which a linear layer's weight is the
transposed, its kernel. All but the head's stand under "transformer" where there is a head:

    h.0.self_attention.dense.weight [O, I]    transformer / h / 0 / self_attention / dense / kernel [I, O]
    h.0.input_layernorm.weight                transformer / h / 0 / input_layernorm / scale
    word_embeddings.weight                    transformer / word_embeddings / embedding
    lm_head.weight [V, E]                     lm_head / kernel [E, V]

A cache is a `StaticCache`, as for the other models; or Flax's own, a tree as well. What a call is given it returns:

    transformer / h / 0 / self_attention / cached_key, cached_value [B, max_length, H, D], cache_index

Source: FlaxBloomModel and FlaxBloomForCausalLM in the documentation of transformers, which has dropped them since.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar, cast

from . import backend as backends
from .backend import Array, to_numpy
from .base import PreTrainedModel, checked_config, initial_params, unknown_argument
from .cache import StaticCache
from .checkpoint import HEADS
from .config import BloomConfig
from .errors import InputError
from .models import BloomForCausalLM, BloomModel
from .outputs import FlaxBaseModelOutput, FlaxMaskedLMOutput
from .precision import checked_dtype
from .tensor_file import check_range

Tree = dict[str, Any]  # dictionaries of dictionaries, with arrays at their ends
Place = tuple[str, ...]  # the keys that lead to an array
Loaded = TypeVar("Loaded", bound="FlaxPreTrainedModel")

NO_PARAMS = (
    "this model was made with _do_init=False and holds no parameters. Give each call a tree of them, params=...; "
    "model.init_weights(seed) makes a new one."
)


class FlaxPreTrainedModel:
    """What both models share. `config`, `seed`, `backend` are as for the models of `models.py`, and

    input_shape: without effect, as no parameter's shape depends on it; the documentation has it.
    dtype: "float32" or "float64", to compute in. Parameters held in another are converted in each call.
    _do_init: False makes a model that holds no parameters: each call is given `params`.
    """

    kind: ClassVar[type[PreTrainedModel]]  # what computes
    output: ClassVar[type[FlaxBaseModelOutput] | type[FlaxMaskedLMOutput]]
    hf_compat: bool = False  # both as the models that `bind` makes have them, and as `from_pretrained` found them
    generation_config: Any = None

    def __init__(
        self,
        config: BloomConfig,
        input_shape: tuple[int, int] = (1, 1),
        seed: int = 0,
        dtype: Any = "float32",
        _do_init: bool = True,
        backend: str = "numpy",
    ) -> None:
        backends.load(backend)  # or an error that says why not
        self.config, self.dtype, self.backend = checked_config(config), checked_dtype(dtype), backend
        self._params = self.init_weights(seed, input_shape) if _do_init else None

    @classmethod
    def from_pretrained(
        cls: type[Loaded],
        path_or_repo: str | Path | None = None,
        dtype: Any = "float32",
        _do_init: bool = True,
        backend: str = "numpy",
        revision: str | None = None,
        **config_changes: Any,
    ) -> Any:
        """Load a checkpoint in safetensors form, as `BloomModel.from_pretrained` does.

        Returns the model; with `_do_init=False` a pair: the model, which then holds no parameters, and their tree.
        """
        for name in ("weights", "stream", "hold_embedding"):
            if name in config_changes:
                raise InputError(f"{name} is for {cls.kind.__name__}: a tree of parameters holds them as arrays.")
        bound = cls.kind.from_pretrained(
            path_or_repo, dtype, backend, revision, weights=checked_dtype(dtype), **config_changes
        )
        model = cls(bound.config, dtype=bound.dtype, _do_init=False, backend=backend)
        model.hf_compat, model.generation_config = bound.hf_compat, vars(bound).get("generation_config")
        params = model.params_to_tree(bound.params)
        if not _do_init:
            return model, params
        model._params = params
        return model

    def save_pretrained(
        self, folder: str | Path, params: Any = None, dtype: str | None = None, max_shard_size: int = 5 * 10**9
    ) -> None:
        """Write `params`, or the model's own, and `config.json` into `folder`, as `BloomModel.save_pretrained` does.

        What is written are safetensors under checkpoint names, which all models here and transformers' load.
        """
        self.bind(params).save_pretrained(folder, dtype, max_shard_size)

    @property
    def xp(self) -> ModuleType:
        """The array library to compute with, as a module."""
        return backends.load(self.backend)

    # --- parameters ---

    @property
    def params(self) -> Tree:
        """The tree of parameters that a call uses if it is given none."""
        if self._params is None:
            raise InputError(NO_PARAMS)
        return self._params

    @params.setter
    def params(self, tree: Any) -> None:
        if self._params is None:
            raise InputError(NO_PARAMS)
        self._check_params(tree)
        self._params = tree

    def init_weights(self, rng: Any = 0, input_shape: tuple[int, int] = (1, 1), params: Any = None) -> Tree:
        """A tree of new parameters, drawn from the seed or key `rng`; those that the tree `params` has are its own."""
        shapes, seed = self.kind.shapes(self.config), seed_of(rng, "rng")
        new = flatten(self.params_to_tree(initial_params(shapes, self.config, seed, self.dtype, self.xp)), "params")
        tree = unflatten(new | ({} if params is None else flatten(params, "params")))
        self._check_params(tree)
        return tree

    def params_to_tree(self, params: Mapping[str, Array]) -> Tree:
        """Parameters, or their gradients, by checkpoint names -> as a tree, of views."""
        return unflatten({self._place(name): _turned(x, self._place(name)) for name, x in params.items()})

    def params_from_tree(self, tree: Any) -> dict[str, Array]:
        """A tree of parameters -> by checkpoint names, in the dtype to compute in: views where it is in it already.

        A tree with a name too few or too many, a wrong shape, or an array that holds no real numbers is an InputError.
        """
        given = self._check_params(tree)
        places = {name: self._place(name) for name in self.kind.shapes(self.config)}
        return {name: _turned(given[at], at).astype(self.dtype, copy=False) for name, at in places.items()}

    def _check_params(self, tree: Any) -> dict[Place, Array]:
        """The arrays of a tree of parameters, which is this model's, or an InputError."""
        given = flatten(tree, "params")
        shapes = {self._place(name): shape for name, shape in self.kind.shapes(self.config).items()}
        _check_places(given, shapes, "params")
        for place, shape in shapes.items():
            where, expected = "params/" + "/".join(place), shape[::-1] if place[-1] == "kernel" else shape
            given[place] = array = backends.asarray(given[place], self.xp, where, move=False)
            if array.shape != expected:
                raise InputError(f"{where} has shape {list(array.shape)}, expected {list(expected)}.")
            if array.dtype.kind != "f":
                raise InputError(f"{where} holds {array.dtype}, expected float16, float32 or float64.")
        return given

    def _place(self, name: str) -> Place:
        """Where the parameter of this name is in a tree."""
        *modules, part = name.split(".")
        if part == "weight":
            norm = modules[-1].endswith(("layernorm", "ln_f"))
            part = "embedding" if modules == ["word_embeddings"] else "scale" if norm else "kernel"
        return (*(() if name in HEADS else self._above), *modules, part)

    @property
    def _above(self) -> Place:
        """What stands above the names of the base model in a tree."""
        return tuple(self.kind.prefix.split(".")[:-1])

    def to_fp16(self, params: Any, mask: Any = None) -> Tree:
        """The tree `params` in float16: half the memory. Each call widens it again, to compute in `dtype`.

        mask: a tree of True and False; where it is False, a parameter stays as it is.
        """
        return self._cast(params, "float16", mask)

    def to_fp32(self, params: Any, mask: Any = None) -> Tree:
        """The tree `params` in float32; `mask` as for `to_fp16`."""
        return self._cast(params, "float32", mask)

    def to_bf16(self, params: Any, mask: Any = None) -> Tree:
        """An InputError: NumPy and CuPy have no bfloat16."""
        raise InputError(
            "NumPy and CuPy have no bfloat16 to hold parameters in. to_fp16 halves their memory too; "
            "save_pretrained(folder, dtype='bfloat16') writes bfloat16, and from_pretrained reads it."
        )

    def _cast(self, params: Any, dtype: str, mask: Any) -> Tree:
        given = self._check_params(params)
        chosen = dict.fromkeys(given, True) if mask is None else flatten(mask, "mask")
        _check_places(chosen, given, "mask")
        for place, array in given.items():
            if chosen[place]:
                check_range("/".join(place), array, dtype)
        return unflatten({place: x.astype(dtype) if chosen[place] else x for place, x in given.items()})

    def bind(self, params: Any = None) -> Any:
        """The model of `models.py` with the parameters of this tree, or the model's own, whose memory it shares."""
        bound: Any = self.kind.__new__(self.kind)
        tree = self.params if params is None else params
        bound._assign(self.config, self.params_from_tree(tree), self.dtype, self.hf_compat)
        if self.generation_config is not None:
            bound.generation_config = self.generation_config
        return bound

    # --- caches ---

    def init_cache(self, batch_size: int, max_length: int) -> StaticCache:
        """An empty cache for `batch_size` rows of `max_length` positions.

        The other models take it too, and extend it in place; a call here copies it first.
        """
        c = self.config
        return StaticCache(c.n_layer, batch_size, c.n_head, max_length, c.head_dim, self.dtype, self.xp)

    def cache_to_tree(self, cache: StaticCache) -> Tree:
        """A cache as Flax has it, copied."""
        B, L, D = cache.batch_size, cache.max_length, self.config.head_dim
        arrays = {}
        for layer in range(len(cache)):
            place = (*self._above, "h", str(layer), "self_attention")
            for i, name in enumerate(("cached_key", "cached_value")):
                arrays[(*place, name)] = x = self.xp.zeros((B, L, self.config.n_head, D), dtype=self.dtype)
                if cache.length:
                    x[:, : cache.length] = cache[layer][i].transpose(0, 2, 1, 3)  # [B, H, T, D] -> [B, T, H, D]
            arrays[(*place, "cache_index")] = self.xp.asarray(cache.length, dtype="int32")
        return unflatten(arrays)

    def cache_from_tree(self, tree: Any) -> StaticCache:
        """A cache as Flax has it -> a copy of it as a `StaticCache`. An InputError if it is not of this model."""
        c, names = self.config, ("cached_key", "cached_value", "cache_index")
        places = [(*self._above, "h", str(layer), "self_attention") for layer in range(c.n_layer)]
        given = flatten(tree, "past_key_values")
        _check_places(given, [(*place, name) for place in places for name in names], "past_key_values")
        arrays = {place: backends.asarray(x, self.xp, "/".join(place), move=False) for place, x in given.items()}
        keys, values, lengths = ([arrays[(*place, name)] for place in places] for name in names)
        B, L = (*keys[0].shape, 0, 0)[:2]
        for x in (*keys, *values):
            if x.shape != (B, L, c.n_head, c.head_dim) or x.dtype != self.dtype:
                raise InputError(
                    f"past_key_values holds {x.dtype}{list(x.shape)}, expected {self.dtype}[batch, max_length, "
                    f"{c.n_head}, {c.head_dim}], the same in every block."
                )
        length, *others = {int(backends.number(x)) if x.shape == () else -1 for x in lengths}
        if others or not 0 <= length <= L:
            raise InputError(f"past_key_values has a cache_index that is no number from 0 to {L}, or several of them.")
        cache = self.init_cache(B, L)
        for layer, pair in enumerate(zip(keys, values, strict=True)):
            cache.update(layer, *(x[:, :length].transpose(0, 2, 1, 3) for x in pair))  # [B, T, H, D] -> [B, H, T, D]
        cache.advance(length)
        return cache

    # --- the call ---

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        past_key_values: Any = None,
        params: Any = None,
        dropout_rng: Any = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> Any:
        """Hidden states or logits of `input_ids [B, S]`.

        attention_mask: `[B, S]`, 1 = token, 0 = padding; with a cache `[B, max_length]`, of which the part over
            cached and new positions is read, so that one mask serves all steps.
        past_key_values: a `StaticCache`, or Flax's tree; see `init_cache`. Only new tokens are given then.
        params: the tree of parameters; the model's own, if None.
        dropout_rng: draws dropout, and is needed where `train=True` has some to draw: a whole number, or a
            `jax.random.PRNGKey`, which is the same as the number (below 2**32) that it was made from.
        output_attentions, output_hidden_states, return_dict: config's fields of these names, if None.

        Returns `FlaxBaseModelOutput` or `FlaxMaskedLMOutput`, in which `past_key_values` is another cache of the kind
        that was given, or None without; and attentions are `[B, H, S, max_length]` with a cache, 0 where nothing is
        yet. With `return_dict=False`, the tuple of its fields that are not None.
        """
        if unknown:
            raise unknown_argument(next(iter(unknown)), [*inspect.signature(type(self).__call__).parameters][1:-1])
        bound = self.bind(params)
        B, S = bound.check_ids(input_ids).shape
        seed, cache = self._seed(dropout_rng, train), self._own(past_key_values)
        if cache is not None and attention_mask is not None:
            attention_mask = self._cut(attention_mask, B, cache.max_length, cache.length + S)
        out = bound(
            input_ids, cache, attention_mask, use_cache=False, train=train, seed=seed, return_dict=True,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        past: Any = cache
        attentions = out.attentions
        if cache is not None and attentions is not None:
            room = [(0, 0), (0, 0), (0, 0), (0, cache.max_length - cache.length)]
            attentions = tuple(self.xp.pad(a, room) for a in attentions)  # [B, H, S, T] -> [B, H, S, max_length]
        if cache is not None and isinstance(past_key_values, Mapping):
            past = self.cache_to_tree(cache)
        result = self.output(out[0], past, out.hidden_states, attentions)
        return result if (self.config.return_dict if return_dict is None else return_dict) else result.to_tuple()

    def _own(self, past: Any) -> StaticCache | None:
        """A copy of the cache that was given, which the pass may extend."""
        if past is None:
            return None
        if isinstance(past, StaticCache):
            return cast(StaticCache, past.copy())
        if isinstance(past, Mapping):
            return self.cache_from_tree(past)
        raise InputError(
            f"past_key_values is a {type(past).__name__}, expected a StaticCache, which model.init_cache(batch_size, "
            "max_length) makes, or the tree that Flax has for one."
        )

    def _cut(self, mask: Any, B: int, max_length: int, T: int) -> Array:
        """The part of `mask [B, max_length]` over cached and new positions, `[B, T]`."""
        mask = backends.asarray(mask, self.xp, "attention_mask")
        if mask.shape != (B, max_length):
            raise InputError(
                f"attention_mask has shape {list(mask.shape)}, expected [{B}, {max_length}]: with a cache it goes over "
                "all positions that there is room for. Those not reached yet are not read."
            )
        return mask[:, :T]

    def _seed(self, dropout_rng: Any, train: bool) -> int | None:
        if dropout_rng is None:
            if train and (self.config.hidden_dropout or self.config.attention_dropout):
                raise InputError("train=True needs dropout_rng, the number or key that dropout is drawn from.")
            return None
        if not train:
            raise InputError("dropout_rng is given without train=True: only dropout draws numbers in a forward pass.")
        return seed_of(dropout_rng, "dropout_rng")


class FlaxBloomModel(FlaxPreTrainedModel):
    """`BloomModel` as a function of its parameters: ids in, hidden states out."""

    kind, output = BloomModel, FlaxBaseModelOutput


class FlaxBloomForCausalLM(FlaxPreTrainedModel):
    """`BloomForCausalLM` as a function of its parameters: ids in, logits of the next token out."""

    kind, output = BloomForCausalLM, FlaxMaskedLMOutput


# --- trees and keys ---


def flatten(tree: Any, name: str) -> dict[Place, Any]:
    """A tree as a flat dictionary, from the keys that lead to an array to the array."""
    if not isinstance(tree, Mapping):
        raise InputError(f"{name} is a {type(tree).__name__}, expected a tree: dictionaries with arrays at their ends.")
    flat: dict[Place, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {(key, *place): x for place, x in flatten(value, name).items()}
        else:
            flat[(key,)] = value
    return flat


def unflatten(flat: Mapping[Place, Any]) -> Tree:
    """What `flatten` was given."""
    tree: Tree = {}
    for (*above, last), value in flat.items():
        branch = tree
        for key in above:
            branch = branch.setdefault(key, {})
        branch[last] = value
    return tree


def seed_of(rng: Any, name: str) -> int:
    """The number behind `rng`: itself, or what a `jax.random.PRNGKey`, two uint32, was made from."""
    try:
        key = to_numpy(rng)
    except TypeError:  # a key of jax's new type, which hides its numbers
        key = None
    if key is not None and key.dtype.kind in "iu" and key.shape == () and key >= 0:
        return int(key)
    if key is not None and key.dtype == "uint32" and key.shape == (2,):
        return int(key[0]) << 32 | int(key[1])
    raise InputError(f"{name} is {rng!r}, expected a whole number of at least 0, or a jax.random.PRNGKey.")


def _turned(array: Array, place: Place) -> Array:
    """A kernel from a weight, or a weight from a kernel; other arrays as they are."""
    return array.T if place[-1] == "kernel" else array


def _check_places(given: Mapping[Place, Any], expected: Iterable[Place], name: str) -> None:
    """Raise an InputError if a tree has other places than expected."""
    expected = dict.fromkeys(expected)
    lacks, has = [at for at in expected if at not in given], [at for at in given if at not in expected]
    problems = [f"it {verb} {_in_words(places)}" for verb, places in (("lacks", lacks), ("has", has)) if places]
    if problems:
        raise InputError(f"{name} is not the tree that this model has with its config: {', '.join(problems)}.")


def _in_words(places: list[Place]) -> str:
    some = ", ".join("/".join(map(str, place)) for place in places[:3])
    return some + (f" and {len(places) - 3} more" if len(places) > 3 else "")
