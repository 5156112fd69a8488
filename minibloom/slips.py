"""What goes wrong in ports of BLOOM, each slip as one edit of the forward pass.

A port that differs is held against BLOOMs with one slip each: the one that it agrees with is what is wrong with it.
That works for a port that shows only its logits, too. `minibloom.parity` does so, and here is what it knows. The
slips are those of real ports, and of transformers' own history.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from .backend import Array, namespace
from .layers.alibi import alibi_slopes
from .layers.attention import split_heads
from .layers.layer_norm import layer_norm
from .layers.linear import linear
from .layers.scores import attention_scores
from .layers.softmax import softmax
from .losses import IGNORE, cross_entropy


@dataclass
class Pass:
    """A pass that is under way: what a slip may read."""

    config: Any  # BloomConfig
    params: Mapping[str, Array]
    mask: Array  # [B, S], 1 = token, 0 = padding
    steps: Mapping[str, Array]  # by name, those computed so far

    def before(self, name: str) -> Array:
        """What goes into a layer norm, or into the block `h.3` that a name begins with."""
        if name == "word_embeddings_layernorm":
            return self.steps["word_embeddings"]
        if name.endswith(".post_attention_layernorm"):
            return self.steps[name.replace("post_attention_layernorm", "attention_residual")]
        block = self.config.n_layer if name == "ln_f" else int(name.split(".")[1])
        return self.steps[f"h.{block - 1}" if block else "word_embeddings_layernorm"]

    @property
    def positions(self) -> Array:
        """`[B, T]`, counting tokens only."""
        return (self.mask.cumsum(-1) - 1) * self.mask

    @property
    def causal(self) -> Array:
        """`[S, T]`: which key comes no later than which query."""
        length = namespace(self.mask).arange(self.mask.shape[1])
        return length <= length[:, None]

    def scores(self, name: str, visible: Array | None, scale: float = 1.0, alibi: float = 1.0) -> Array:
        """The scores of the attention that `name` is a step of, with factors on the scale and on ALiBi."""
        home = name.rpartition(".")[0]
        query, key = self.steps[f"{home}.query"], self.steps[f"{home}.key"]
        return attention_scores(query * scale, key, self.steps["alibi"] * alibi, visible)

    @property
    def visible(self) -> Array:
        """`[B, 1, S, T]`: which query sees which key."""
        return self.causal & self.mask.astype(bool)[:, None, None, :]


@dataclass(frozen=True)
class Slip:
    """One mistake: at which steps, in words, and what a port has in their place.

    `wrong(pass, name, value)` is given the right value of a step. With `flows`, what it returns flows on; without, it
    is only what the port shows.
    """

    steps: tuple[str, ...]  # as in `trace.STEPS`, "h.*" for every block
    said: str
    wrong: Callable[[Pass, str, Array], Array]
    flows: bool = True
    head: str = ""  # where only models with this head can slip


# --- The wrong values that take more than a line ---


def alibi(slopes: Array, positions: Array) -> Array:
    """ALiBi of `slopes [H]` at `positions [B, T]` -> `[B, H, 1, T]`."""
    return slopes[:, None, None] * positions[:, None, None, :]


def normalised(p: Pass, name: str, deviation: Callable[[Array], Array]) -> Array:
    """A layer norm that divides by `deviation(variance)`."""
    x = p.before(name)
    x = x - x.mean(-1, keepdims=True)
    variance = namespace(x).square(x).mean(-1, keepdims=True)
    return x / deviation(variance) * p.params[f"{name}.weight"] + p.params[f"{name}.bias"]


def affine(p: Pass, name: str) -> tuple[Array, Array]:
    return p.params[f"{name}.weight"], p.params[f"{name}.bias"]


def thirds(p: Pass, name: str, value: Array) -> Array:
    """q, k or v, split as if the rows ran [3, H, D]."""
    home, _, part = name.rpartition(".")
    fused, H = p.steps[f"{home}.query_key_value"], p.config.n_head
    B, S, width = fused.shape
    repacked = fused.reshape(B, S, 3, H, width // (3 * H)).swapaxes(2, 3)  # [B, S, 3, H, D] -> [B, S, H, 3, D]
    return split_heads(repacked.reshape(B, S, width), H)[PARTS.index(part)]


def with_epsilon(epsilon: float, called: str) -> Slip:
    return Slip(
        NORMS,
        f"The LayerNorms' epsilon is {called}; config.json says {{config.layer_norm_epsilon:g}}.",
        lambda p, name, x: layer_norm(p.before(name), *affine(p, name), epsilon),
    )


def taken_as(order: Sequence[int]) -> Slip:
    """query, key and value as those of the three parts of each head that have these numbers."""

    def wrong(p: Pass, name: str, value: Array) -> Array:
        home, _, part = name.rpartition(".")
        return split_heads(p.steps[f"{home}.query_key_value"], p.config.n_head)[order[PARTS.index(part)]]

    return Slip(
        tuple(step for step, i, taken in zip(SPLIT, range(3), order, strict=True) if taken != i),
        "The parts of query_key_value change places: query, key and value are taken from where "
        f"{', '.join(PARTS[i] for i in order)} stand. In each head its rows run query, key, value.",
        wrong,
    )


def repacked(p: Pass, name: str, value: Array) -> Array:
    """The fused projection with its columns put in the order [3, H, D]."""
    B, S, width = value.shape
    H = p.config.n_head
    return value.reshape(B, S, H, 3, width // (3 * H)).swapaxes(2, 3).reshape(B, S, width)


def without_bias(p: Pass, name: str, value: Array) -> Array:
    return value - p.params[f"{name}.bias"]


def transposed(p: Pass, name: str, value: Array) -> Array:
    weight, bias = affine(p, name)
    return linear(p.steps[name.replace("dense", "context")], weight.T, bias)


def merged_as_they_lie(p: Pass, name: str, value: Array) -> Array:
    home = name.rpartition(".")[0]
    return (p.steps[f"{home}.weights"] @ p.steps[f"{home}.value"]).reshape(value.shape)  # [B, H, S, D] -> [B, S, E]


def other_residual(p: Pass, name: str, value: Array) -> Array:
    """The sum after attention or MLP with the residual that config does not say."""
    middle = name.endswith(".attention_residual")
    block = name.removesuffix(".attention_residual")
    stream = p.before(block) if middle else p.steps[f"{block}.attention_residual"]
    norm = p.steps[f"{block}.input_layernorm" if middle else f"{block}.post_attention_layernorm"]
    right, wrong = (norm, stream) if p.config.apply_residual_connection_post_layernorm else (stream, norm)
    return value - right + wrong


def erf_gelu(p: Pass, name: str, value: Array) -> Array:
    x = p.steps[name.replace("gelu", "dense_h_to_4h")]
    erf = numpy.vectorize(math.erf, otypes=["float64"])
    return x * (0.5 + 0.5 * erf(x / math.sqrt(2)))


def sigmoid_gelu(p: Pass, name: str, value: Array) -> Array:
    x = p.steps[name.replace("gelu", "dense_h_to_4h")]
    return x / (1 + namespace(x).exp(-1.702 * x))


def gradient_of_head(p: Pass) -> Array:
    """The share of a tied head in the gradient of the embedding matrix `[V, E]`."""
    d, hidden = p.steps["lm_head.grad"], p.steps["ln_f"]
    return d.reshape(-1, d.shape[-1]).T @ hidden.reshape(-1, hidden.shape[-1])


NORMS = ("word_embeddings_layernorm", "h.*.input_layernorm", "h.*.post_attention_layernorm", "ln_f")
PARTS = ("query", "key", "value")
SPLIT = tuple(f"h.*.self_attention.{part}" for part in PARTS)

SLIPS = [
    # --- embedding and norms ---
    Slip(
        ("word_embeddings_layernorm",),
        "The LayerNorm after the embedding, which BLOOM has and GPT-2 has not, is missing.",
        lambda p, name, x: p.before(name),
    ),
    with_epsilon(1e-6, "1e-6 (Flax's default)"),
    with_epsilon(1e-12, "1e-12"),
    Slip(
        NORMS,
        "The LayerNorms add epsilon to the standard deviation; it belongs under the root: sqrt(variance + epsilon).",
        lambda p, name, x: normalised(p, name, lambda v: v**0.5 + p.config.layer_norm_epsilon),
    ),
    Slip(
        NORMS,
        "The LayerNorms divide the sum of squares by E - 1 (as torch.var does unless told otherwise), not by E.",
        lambda p, name, x: normalised(
            p, name, lambda v: (v * x.shape[-1] / (x.shape[-1] - 1) + p.config.layer_norm_epsilon) ** 0.5
        ),
    ),
    Slip(("ln_f",), "The last LayerNorm, ln_f, is missing.", lambda p, name, x: p.before(name)),
    # --- ALiBi ---
    Slip(
        ("alibi",),
        "ALiBi's slopes are sorted. Where the number of heads ({config.n_head}) is no power of two, the slopes of the "
        "power of two below come first, and those between them after: concatenated, not sorted.",
        lambda p, name, x: alibi(-numpy.sort(-alibi_slopes(p.config.n_head, numpy)), p.positions),
    ),
    Slip(
        ("alibi",),
        "ALiBi's slopes are 2^(-8 h / H) for h = 1 to H. That is right only where the number of heads "
        "({config.n_head}) is a power of two; else those of the power of two below come first, and then every second "
        "slope of twice as many heads.",
        lambda p, name, x: alibi(2.0 ** (-8 * numpy.arange(1, p.config.n_head + 1) / p.config.n_head), p.positions),
    ),
    Slip(
        ("alibi",),
        "ALiBi's slopes are one power too large: they are 2^(-8 h / H) for h from 1 on, not from 0.",
        lambda p, name, x: x * 2.0 ** (8 / 2 ** int(math.log2(p.config.n_head))),
    ),
    Slip(
        ("alibi",),
        "ALiBi counts padding: its positions are 0, 1, 2, ... instead of (cumsum(attention_mask) - 1) * "
        "attention_mask. Softmax hides that as long as all padding is at one side, and not where a mask has holes.",
        lambda p, name, x: alibi(alibi_slopes(p.config.n_head, numpy), numpy.arange(x.shape[-1])[None]),
    ),
    Slip(("alibi",), "ALiBi is 0: nothing tells the model where a token stands.", lambda p, name, x: 0 * x),
    Slip(
        ("alibi",),
        "ALiBi has the wrong sign: it has to grow with the key's position, so that near keys score higher.",
        lambda p, name, x: -x,
    ),
    # --- attention ---
    Slip(
        ("h.*.self_attention.query_key_value",),
        "The columns are packed as [3, H, D] here. A port may do so, with weight and bias packed alike: then nothing "
        "is wrong. Leave this step out; query, key and value will tell.",
        repacked,
        flows=False,
    ),
    Slip(("h.*.self_attention.query_key_value",), "The bias of query_key_value is missing.", without_bias),
    Slip(
        SPLIT,
        "query_key_value is split as [3, H, D], as in GPT-2. BLOOM's is interleaved, [H, 3, D]: query, key and value "
        "of head 0 come first, then those of head 1. Reshape to [B, S, H, 3, D], then take [..., 0, :], [..., 1, :] "
        "and [..., 2, :].",
        thirds,
    ),
    *(taken_as(order) for order in itertools.permutations(range(3)) if order != (0, 1, 2)),
    Slip(
        ("h.*.self_attention.query",),
        "The query is scaled by 1 / sqrt(D) already. A port may do so: then nothing is wrong. Leave this step out; "
        "the scores will tell.",
        lambda p, name, x: x * x.shape[-1] ** -0.5,
        flows=False,
    ),
    Slip(
        ("h.*.self_attention.scores",),
        "ALiBi is scaled by 1 / sqrt(D) too. The scale belongs to q @ k.T alone: q @ k.T / sqrt(D) + alibi.",
        lambda p, name, x: p.scores(name, p.visible, alibi=p.steps[name.replace("scores", "query")].shape[-1] ** -0.5),
    ),
    Slip(
        ("h.*.self_attention.scores",),
        "The scale 1 / sqrt(D) on q @ k.T is missing.",
        lambda p, name, x: p.scores(name, p.visible, scale=p.steps[name.replace("scores", "query")].shape[-1] ** 0.5),
    ),
    Slip(
        ("h.*.self_attention.scores",),
        "ALiBi is not added to the scores.",
        lambda p, name, x: p.scores(name, p.visible, alibi=0.0),
    ),
    Slip(
        ("h.*.self_attention.probs",),
        "The causal mask is missing: queries see later keys.",
        lambda p, name, x: softmax(p.scores(name, p.mask.astype(bool)[:, None, None, :])),
    ),
    Slip(
        ("h.*.self_attention.probs",),
        "The padding mask is missing: queries see the keys of padding.",
        lambda p, name, x: softmax(p.scores(name, p.causal)),
    ),
    Slip(
        ("h.*.self_attention.probs",),
        "Softmax runs over the queries; it belongs over the keys, the last axis.",
        lambda p, name, x: softmax(p.scores(name, p.visible).swapaxes(-1, -2)).swapaxes(-1, -2),
    ),
    Slip(
        ("h.*.self_attention.context",),
        "The heads are merged without being put side by side: [B, H, S, D] has to become [B, S, H, D] before it "
        "is read as [B, S, E].",
        merged_as_they_lie,
    ),
    # --- projections, residuals, MLP ---
    Slip(
        ("h.*.self_attention.dense", "h.*.mlp.dense_4h_to_h"),
        "The biases of dense and of dense_4h_to_h are missing. (transformers itself leaves them out where config has "
        "slow_but_exact and pretraining_tp above 1; minibloom does the same with hf_compat=True.)",
        without_bias,
    ),
    Slip(("h.*.self_attention.dense",), "The bias of dense is missing.", without_bias),
    Slip(("h.*.mlp.dense_h_to_4h",), "The bias of dense_h_to_4h is missing.", without_bias),
    Slip(("h.*.mlp.dense_4h_to_h",), "The bias of dense_4h_to_h is missing.", without_bias),
    Slip(
        ("h.*.self_attention.dense",),
        "The weight of dense is used the other way round: weights are [out, in], so it is x @ W.T.",
        transposed,
    ),
    Slip(
        ("h.*.attention_residual", "h.*"),
        "The residual is the other one: config.json says apply_residual_connection_post_layernorm = "
        "{config.apply_residual_connection_post_layernorm}. False: x + attention(LayerNorm(x)). True: the norm's "
        "output takes the place of x in that sum, and in the one after the MLP.",
        other_residual,
    ),
    Slip(
        ("h.*.post_attention_layernorm",),
        "The MLP reads what attention reads, as in GPT-J. In BLOOM it comes after: its norm reads x + attention.",
        lambda p, name, x: layer_norm(p.before(name.rpartition(".")[0]), *affine(p, name), p.config.layer_norm_epsilon),
    ),
    Slip(
        ("h.*.mlp.gelu",),
        "The GELU is the exact one, by erf. BLOOM's is the approximation by tanh: "
        "x / 2 * (1 + tanh(0.79788456 * x * (1 + 0.044715 * x * x))).",
        erf_gelu,
    ),
    Slip(
        ("h.*.mlp.gelu",),
        "The GELU is the quick one, x * sigmoid(1.702 x). BLOOM's is the approximation by tanh: "
        "x / 2 * (1 + tanh(0.79788456 * x * (1 + 0.044715 * x * x))).",
        sigmoid_gelu,
    ),
    # --- heads, loss, gradients ---
    Slip(
        ("last_token",),
        "The last position is taken, whatever its id: what counts is the last id that is not pad_token_id "
        "({config.pad_token_id}).",
        lambda p, name, x: 0 * x + p.mask.shape[1] - 1,
    ),
    Slip(
        ("loss",),
        "The labels are not shifted: the logits at t belong to the label at t + 1.",
        lambda p, name, x: cross_entropy(p.steps["logits"], p.steps["labels"])[0],
        flows=False,
        head="lm_head",
    ),
    Slip(
        ("loss",),
        "It is the sum over the labels that count, not their mean.",
        lambda p, name, x: x * (p.steps["labels"][:, 1:] != IGNORE).sum(),
        flows=False,
        head="lm_head",
    ),
    Slip(
        ("gradient/word_embeddings.weight",),
        "The head's share is missing: the head is tied, so the gradients of both uses of the matrix add up.",
        lambda p, name, x: x - gradient_of_head(p),
        flows=False,
        head="lm_head",
    ),
    Slip(
        ("gradient/word_embeddings.weight",),
        "The embedding's share is missing: the head is tied, so the gradients of both uses of the matrix add up.",
        lambda p, name, x: gradient_of_head(p),
        flows=False,
        head="lm_head",
    ),
]

# What to look at where no slip fits, by the step that is the first to leave.
HINTS = {
    "word_embeddings": "Same checkpoint, same revision? Ids beyond the table, a table cut to the tokenizer's size "
    "(BLOOM's has 250,880 rows for 250,680 tokens), bfloat16 read as float16, or rows found with 32-bit arithmetic "
    "(bloom's table has 3.6e9 numbers)?",
    "word_embeddings_layernorm": "BLOOM has a LayerNorm right after the embedding. The variance is the mean of "
    "squares over E, epsilon stands under the root.",
    "attention_mask": "1 for a token, 0 for padding, over cached and new positions; without a mask, 1 everywhere.",
    "alibi": "slope[head] * position(key), with key positions that count tokens only: (cumsum(mask) - 1) * mask, and 0 "
    "at padding. Slopes of heads that are no power of two are concatenated, not sorted; base and powers are float32 "
    "numbers. The product is taken in float32 and then rounded, or bfloat16 loses positions above 256.",
    "h.*.input_layernorm": "It reads the residual stream. The variance is the mean of squares over E, epsilon stands "
    "under the root.",
    "h.*.self_attention.query_key_value": "The weight is [out, in], its rows run [H, 3, D], and so does the bias.",
    "h.*.self_attention.query": "The fused rows run [H, 3, D]: split [B, S, 3E] as [B, S, H, 3, D], not [3, H, D].",
    "h.*.self_attention.scores": "The scale 1 / sqrt(D) touches q @ k.T and not ALiBi; ALiBi goes by the key, not by "
    "the query, and is added, not subtracted. In float16, add before masking with -65504 makes -inf, and then NaN.",
    "h.*.self_attention.probs": "Softmax over the keys, in float32, after the causal and the padding mask. A row of "
    "padding that sees no key must not become NaN: 0 * NaN is NaN, and spreads to the tokens.",
    "h.*.self_attention.weights": "In inference they are the probabilities: is dropout on?",
    "h.*.self_attention.context": "weights @ v for each head, then the heads side by side: [B, H, S, D] -> "
    "[B, S, H, D] -> [B, S, E].",
    "h.*.self_attention.dense": "The weight is [out, in]; there is a bias. transformers with slow_but_exact and "
    "pretraining_tp above 1 drops it.",
    "h.*.attention_residual": "The residual is the block's input, or with apply_residual_connection_post_layernorm the "
    "output of the norm.",
    "h.*.post_attention_layernorm": "It reads the sum after attention, not the block's input.",
    "h.*.mlp.dense_h_to_4h": "The weight is [out, in], 4E wide; there is a bias.",
    "h.*.mlp.gelu": "It is the approximation by tanh, with 0.79788456 and 0.044715.",
    "h.*.mlp.dense_4h_to_h": "The weight is [out, in]; there is a bias. transformers with slow_but_exact and "
    "pretraining_tp above 1 drops it.",
    "h.*": "The residual is the sum after attention, or with apply_residual_connection_post_layernorm the output of "
    "the norm.",
    "ln_f": "It comes once, after the last block. transformers' last hidden state is after it; the one before is not.",
    "lm_head": "The matrix is the embedding's own where config.json says tie_word_embeddings, without a bias.",
    "last_token": "The place of the last id that is not pad_token_id, whatever the attention mask says.",
    "loss": "The logits at t belong to the label at t + 1; -100 does not count; the mean is over those that count.",
    "gradient/word_embeddings.weight": "Ids that occur twice add up (np.add.at, not dW[ids] += d), and a tied head "
    "adds its own share.",
}
HINTS |= {name: HINTS["h.*.self_attention.query"] for name in SPLIT} | {"logits": HINTS["lm_head"]}
