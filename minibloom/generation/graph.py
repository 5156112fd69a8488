"""The fast path of decoding on a GPU: a pass over one new token a row as a graph, captured once, launched for each.

A pass of array code is some 40 launches a block, and for a few rows the GPU is done with each long before the host has
sent the next. Here it is five kernels a block (see `minibloom/cuda`), and the host sends all of them at once. A graph
is launched as it was captured, with the same arguments: so its arrays stay where they are, the cache has all its room
from the start, and how far the text has come, and which tokens were chosen, stands on the device.

The first pass is launched kernel by kernel, for kernels have to be loaded before they can be captured; the second is
captured. Work of graphs and of array code goes to the same stream, one after the other. Rows that have ended stay:
weights are read once for all rows, and another number of them would be another graph.

Not measured on a GPU yet. `tests/generation/test_graph.py` holds it to the plain path.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ..backend import Array
from ..cache import StaticCache
from ..cuda.embed import embed
from ..cuda.kernels import can_launch
from ..cuda.likeliest import likeliest, pieces
from ..cuda.matvec import MOST, matvec, readable
from ..cuda.one_query import MOST as LARGEST_HEAD
from ..cuda.one_query import one_query, splits
from ..layers.alibi import alibi_slopes
from ..memory import free_and_total
from ..outputs import CausalLMOutputWithPast
from .job import Job
from .reader import Reader


def suits_graph(job: Job) -> bool:
    """Whether the passes over single tokens are to be captured: the one place where that is chosen."""
    model, c, rows = job.model, job.model.config, len(job.ids) * job.settings.num_return_sequences
    room = 2 * 4 * rows * job.length * c.n_layer * c.hidden_size  # bytes of keys and values, if no row ends early
    return (
        can_launch(job.xp)
        and rows <= MOST
        and c.head_dim <= LARGEST_HEAD
        and not c.apply_residual_connection_post_layernorm
        and not (c.slow_but_exact and c.pretraining_tp > 1)
        and job.trace is None
        and not job.settings.return_dict_in_generate  # nobody wants what is inside of a pass, or all passes' logits
        and type(job.cache) in (type(None), StaticCache)
        and all(map(readable, model.params.values()))  # which float64 is not
        and (job.cache is not None or 2 * room <= free_and_total(job.xp)[0])  # twice, while rows are repeated
    )


class GraphReader(Reader):
    """Reads the prompts pass by pass as every reader, and then single tokens by a graph."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if self.cache is None:
            self.cache = job.model.init_cache(len(job.ids), job.length - 1)  # the last token is not read
        self._graph: DecodeGraph | None = None
        self._chosen: Array | None = None

    def __call__(self, ids: Array, keep: int = 1, **more: Any) -> Any:
        if self.read < self.job.ids.shape[1]:
            return super().__call__(ids, keep, **more)
        if self._graph is None:
            self._graph = DecodeGraph(self.model, self.cache, self.mask)
        logits = self._graph(None if self._chosen is not None else ids[:, 0])
        if self.job.processors or self.job.stopping.own:
            logits = logits.copy()  # a user's own function may keep them
        self._chosen = None
        self.read += 1
        self.job.result.passes += 1
        return CausalLMOutputWithPast(logits=logits[:, None], past_key_values=self.cache)

    @property
    def rows_leave(self) -> bool:
        return False

    def likeliest(self, scores: Array) -> Array:
        if self._graph is None or self.job.processors or self.job.filters:
            return super().likeliest(scores)
        self._chosen = self._graph.chosen  # which stand where the next pass reads them
        return self._chosen


class DecodeGraph:
    """Passes of `model` over one new token a row `[B]`, each behind the last, in a cache that has room for them."""

    def __init__(self, model: Any, cache: StaticCache, mask: Array | None) -> None:
        """mask: `[B, S]` over what the cache holds, or None where nothing is padded; later positions are tokens."""
        xp: ModuleType = model.xp
        c, E = model.config, model.config.hidden_size
        B, H, room, D = cache.buffers(0)[0].shape
        self.cache, self._xp, self._eps = cache, xp, c.layer_norm_epsilon
        self._params, self._head = dict(model.params), model.head_matrix  # held, whatever becomes of the model

        def empty(*shape: int, dtype: str = "float32") -> Array:
            return xp.empty(shape, dtype=dtype)

        self.logits = empty(B, c.vocab_size)
        self._x, self._fused, self._context, self._up = (empty(B, width * E) for width in (1, 3, 1, 4))
        self._tokens = xp.zeros((room + 1, B), dtype="int64")  # what was read at each position, and what comes next
        self._lengths = xp.full(B, cache.length, dtype="int32")
        self._arrived, self._pieces_arrived = xp.zeros((B, H), dtype="int32"), xp.zeros(B, dtype="int32")
        self._parts = empty(B, H, splits(room), D + 2)
        self._found = empty(B, pieces(c.vocab_size)), empty(B, pieces(c.vocab_size), dtype="int32")
        self._slopes = alibi_slopes(H, xp)
        there = xp.ones((B, room), dtype="int64")
        if mask is not None:
            there[:, : cache.length] = mask[:, : cache.length]
        self._places = xp.where(there == 1, there.cumsum(-1) - 1, -1).astype("int32")
        self._longest = [xp.sqrt(xp.square(keys).sum(-1)).max(-1) for keys, _ in cache]
        self._graph: Any = None
        self._loaded = False

    def __call__(self, ids: Array | None) -> Array:
        """The logits `[B, V]` behind one more token a row, in an array that the next call fills anew.

        ids: `[B]`; None stands for `chosen`, which are on their place already.
        """
        if ids is not None:
            self._tokens[self.cache.length] = ids
        if not self._loaded:
            self._pass()
            self._loaded = True
        else:
            if self._graph is None:
                self._graph = self._captured()
            self._graph.launch()
        self.cache.advance(1)
        return self.logits

    @property
    def chosen(self) -> Array:
        """The likeliest token of each row `[B]`, after the last call."""
        return self._tokens[self.cache.length]

    def _captured(self) -> Any:
        with self._xp.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                self._pass()
            finally:
                graph = stream.end_capture()
        return graph

    def _pass(self) -> None:
        """Launch the kernels of a pass, which use these arrays and make none."""
        p, x = self._params, self._x

        def norm(name: str) -> tuple[Array, Array, float]:
            return p[f"{name}.weight"], p[f"{name}.bias"], self._eps

        def linear(x: Array, name: str, y: Array, **more: Any) -> None:
            matvec(x, p[f"{name}.weight"], p[f"{name}.bias"], y, **more)

        embed(self._tokens, self._lengths, p["word_embeddings.weight"], norm("word_embeddings_layernorm"), x)
        for layer in range(len(self.cache)):
            h = f"h.{layer}"
            linear(x, f"{h}.self_attention.query_key_value", self._fused, norm=norm(f"{h}.input_layernorm"))
            one_query(
                self._fused, *self.cache.buffers(layer), self._places, self._lengths, self._slopes,
                self._longest[layer], self._parts, self._arrived, self._context,
            )  # fmt: skip
            linear(self._context, f"{h}.self_attention.dense", x, residual=x)
            linear(x, f"{h}.mlp.dense_h_to_4h", self._up, norm=norm(f"{h}.post_attention_layernorm"), gelu=True)
            linear(self._up, f"{h}.mlp.dense_4h_to_h", x, residual=x)
        matvec(x, p[self._head], None, self.logits, norm=norm("ln_f"))
        likeliest(self.logits, self._found, self._pieces_arrived, self._lengths, self._tokens)
