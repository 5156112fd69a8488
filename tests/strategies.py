"""What the tests draw: configurations, models, ids and masks, small enough that a forward pass takes a millisecond."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy
from hypothesis import Phase, settings
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, Trace
from minibloom.layers.alibi import alibi_bias
from minibloom.layers.run import Run

few = settings(max_examples=15)
some = settings(max_examples=30)
without_shrinking = settings(few, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # where an example takes long

HEADS = (1, 2, 3, 4, 5, 6, 8, 12)  # half of them no power of two
HEADS_OF_176B = BloomConfig(vocab_size=11, hidden_size=112, n_layer=1, n_head=112)  # also no power of two
MASKS = ("none", "left", "right", "holes")
seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int, dtype: str = "float64") -> numpy.ndarray:
    """Normal numbers: arrays without the extremes, whose derivatives differences can measure."""
    return numpy.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_product(y: numpy.ndarray, x: numpy.ndarray, weight: numpy.ndarray) -> None:
    """Assert that `y` is x Wᵀ but for rounding, which is measured against the sum of all magnitudes that were added."""
    exact, size = ((f(x.astype("float64")) @ f(weight.astype("float64")).T) for f in (numpy.asarray, numpy.abs))
    rounding = {"float32": 1e-6, "float64": 1e-14}[str(y.dtype)]
    assert y.shape == exact.shape and (numpy.abs(y - exact) <= rounding * size).all()


@st.composite
def arrays(draw: st.DrawFn, dims: int = 2, longest: int = 5) -> numpy.ndarray:
    """A float64 array of random shape."""
    shape = draw(st.lists(st.integers(1, longest), min_size=dims, max_size=dims))
    return normal(draw(seeds), *shape)


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> BloomConfig:
    """A small configuration; `fixed` fields are not drawn."""
    heads = draw(st.sampled_from(HEADS))
    width = heads * draw(st.integers(-(-4 // heads), 24 // heads))  # below 4, a layer norm leaves next to nothing
    slices = draw(st.sampled_from([n for n in (1, 2, 3, 4) if width % n == 0]))
    drawn: dict[str, Any] = {
        "vocab_size": draw(st.integers(3, 17)),
        "hidden_size": width,
        "n_layer": draw(st.integers(1, 3)),
        "n_head": heads,
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-2])),
        "apply_residual_connection_post_layernorm": draw(st.booleans()),
        "slow_but_exact": draw(st.booleans()),
        "pretraining_tp": slices,
        "tie_word_embeddings": draw(st.booleans()),
    }
    return BloomConfig(**{**drawn, **fixed})


def random_params(shapes: Mapping[str, tuple[int, ...]], seed: int, dtype: str = "float64") -> dict[str, numpy.ndarray]:
    """Parameters none of which is 0 or 1, and with which every layer has a say: new models are too tame to test."""
    rng = numpy.random.default_rng(seed)
    params = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape)
        if len(shape) == 2 and "embeddings" not in name:
            value *= 1.2 / numpy.sqrt(shape[1])  # keeps the size of what a matrix is given
        elif len(shape) == 1:
            value = 0.3 * value + name.endswith("norm.weight")
        params[name] = value.astype(dtype)
    return params


def random_model(config: BloomConfig, seed: int, dtype: str = "float64", kind: type = BloomForCausalLM) -> Any:
    """A model of the class `kind` with random parameters."""
    model = kind(config, dtype=dtype)
    model.params = random_params(model.shapes(config), seed, dtype)
    return model


@st.composite
def models(draw: st.DrawFn, kind: type = BloomForCausalLM, dtype: str = "float64", **fixed: Any) -> Any:
    """A random small model. In float64, so that what should be equal is equal to 1e-12."""
    return random_model(draw(configs(**fixed)), draw(seeds), dtype, kind)


@st.composite
def token_ids(draw: st.DrawFn, config: BloomConfig, longest: int = 8, shortest: int = 1) -> numpy.ndarray:
    """Ids `[B, S]` of 1 to 3 rows."""
    shape = draw(st.integers(1, 3)), draw(st.integers(shortest, longest))
    return numpy.random.default_rng(draw(seeds)).integers(0, config.vocab_size, shape)


@st.composite
def masks(
    draw: st.DrawFn, shape: tuple[int, int], kinds: tuple[str, ...] = MASKS, tokens: int = 1
) -> numpy.ndarray | None:
    """An attention mask `[B, S]` with at least `tokens` tokens in each row, or None."""
    kind, S = draw(st.sampled_from(kinds)), shape[1]
    if kind == "none":
        return None
    mask = numpy.zeros(shape, dtype="int64")
    for row in mask:
        count = draw(st.integers(tokens, S))
        if kind == "left":
            row[S - count :] = 1
        elif kind == "right":
            row[:count] = 1
        else:
            row[draw(st.permutations(range(S)))[:count]] = 1
    return mask


def padding_of(kind: str, length: int, rng: numpy.random.Generator) -> numpy.ndarray:
    """One row of a mask `[length]`: "none", "left", "right", "holes", or "all" padded."""
    mask, pads = numpy.ones(length, dtype="int64"), rng.integers(0, length)
    mask[{"none": [], "left": slice(pads), "right": slice(length - pads, None), "all": slice(None)}.get(
        kind, rng.permutation(length)[:pads]
    )] = 0  # fmt: skip
    return mask


def real(mask: numpy.ndarray | None, shape: tuple[int, int]) -> numpy.ndarray:
    """Which positions `[B, S]` hold a token, as bool."""
    return numpy.ones(shape, dtype=bool) if mask is None else mask.astype(bool)


def passes(config: BloomConfig, B: int, S: int, past: int = 0, **fields: Any) -> tuple[Run, Trace]:
    """A pass over `S` new positions for testing layers alone, and the trace that it fills with its steps."""
    trace, mask = Trace(), numpy.ones((B, past + S), dtype="int64")
    alibi = alibi_bias(mask, config.n_head, "float64")
    return Run(config=config, new=S, mask=mask, alibi=alibi, watch=trace, **fields), trace


class ArrayElsewhere:
    """Stands for an array on a device: of another library than NumPy, and never turned into NumPy's silently."""

    shape, ndim, size = (1, 2), 2, 2

    def __array_namespace__(self) -> ModuleType:
        return ELSEWHERE

    def __array__(self, *_: object, **__: object) -> numpy.ndarray:
        raise TypeError("implicit conversion to a NumPy array")  # as CuPy says it


ELSEWHERE = ModuleType("elsewhere")
