"""The models: BLOOM without a head, and its four heads, each a matrix behind the last hidden states.

    ids -> embedding -> LayerNorm -> block 0 ... block L-1 -> LayerNorm -> hidden states -> head -> logits -> loss

Each class says what its head's parameters are, how logits and loss follow from the hidden states, and the way back.
What they share is in `base.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy

from . import backend as backends
from .backend import Array
from .base import PreTrainedModel, refuse_loading
from .chunked_loss import chunked_cross_entropy
from .config import BloomConfig
from .errors import InputError
from .files import fetch
from .layers.dropout import dropout
from .layers.linear import linear, linear_backward
from .losses import IGNORE, binary_cross_entropy, cross_entropy, mean_squared_error, shift
from .outputs import (
    CausalLMOutputWithPast,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from .threads import on_all_cores
from .trace import Trace


class BloomModel(PreTrainedModel):
    """BLOOM without a head: ids in, hidden states out."""

    prefix = ""

    @on_all_cores
    def __call__(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
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

        past_key_values: the cache of earlier calls: it is extended in place, and only new tokens are given. Or a
            tuple of keys and values as transformers had them (see `minibloom.cache`), which is copied into a cache.
        attention_mask: `[B, T]` over cached and new positions, 1 = token, 0 = padding, at either side or between.
        head_mask: `[H]` or `[L, H]`, factors on each head's attention weights.
        use_cache, output_attentions, output_hidden_states, return_dict: config's fields of these names, if None.
        Options: `train=True` switches dropout on, with numbers drawn from `seed`; `trace`, a `Trace`, watches or
        edits the named steps.

        Returns `BaseModelOutputWithPast`, or with `return_dict=False` the tuple of its fields that are not None.
        """
        out, run = self._base(
            input_ids, past_key_values, attention_mask, head_mask, inputs_embeds,
            use_cache, output_attentions, output_hidden_states, **options,
        )  # fmt: skip
        return self._finish(run, out, return_dict)

    @on_all_cores
    def value_and_grad(  # type: ignore[override]
        self,
        *args: Any,
        upstream: Any,
        trace: Trace | None = None,
        recompute: bool = False,
        at: Any = (),
        **kwargs: Any,
    ) -> Any:
        """The output of the same call, and the gradient by parameter name of a loss that is the caller's.

        upstream: the gradient of that loss at last_hidden_state, `[B, S, E]`; or a function that is given
            last_hidden_state and returns it, for a head or a loss of one's own:

                def upstream(hidden):  # here a head of weight [N, E], on the last position, and any loss of its logits
                    loss, dlogits = my_loss(linear(hidden[:, -1], weight))  # dlogits [B, N]: d loss / d logits
                    d = np.zeros_like(hidden)
                    d[:, -1], dweight, _ = linear_backward(dlogits, hidden[:, -1], weight)  # of minibloom.layers.linear
                    return d

        recompute, at: as in the other models.
        """
        call = self._by_name(args, kwargs)
        x = self._check_input(call.get("input_ids"), call.get("inputs_embeds"))
        shape = (*x.shape[:2], self.config.hidden_size)
        d = None if callable(upstream) else self._check_upstream(upstream, shape)

        def start(tape: Mapping[str, Array], grads: MutableMapping[str, Array]) -> Array:
            return self._check_upstream(upstream(tape["ln_f"]), shape) if d is None else d

        return self._differentiate(call, trace, recompute, at, start)

    def _check_upstream(self, upstream: Any, shape: tuple[int, ...]) -> Array:
        d = backends.asarray(upstream, self.xp, "upstream")
        if d.shape != shape:
            raise InputError(f"upstream has shape {list(d.shape)}, expected {list(shape)} like last_hidden_state.")
        if d.dtype.kind not in "fiu":
            raise InputError(f"upstream holds {d.dtype}, expected numbers.")
        return d.astype(self.dtype)


class BloomForCausalLM(PreTrainedModel):
    """BLOOM that predicts the next token: each hidden state times the embedding matrix gives the logits."""

    head, labels = "lm_head", ("labels",)
    generation_config: Any = None  # a GenerationConfig: what `generate` goes by where a call says nothing

    @classmethod
    def head_shapes(cls, config: BloomConfig) -> dict[str, tuple[int, ...]]:
        return {} if config.tie_word_embeddings else {"lm_head.weight": (config.vocab_size, config.hidden_size)}

    def count_labels(self, batch: Mapping[str, Any]) -> int:
        return super().count_labels({"labels": shift(backends.to_numpy(batch["labels"]).astype("int64"))})

    @property
    def head_matrix(self) -> str:
        """Name of the matrix that turns hidden states into logits: the embedding's own, unless config unties them."""
        return "word_embeddings.weight" if self.config.tie_word_embeddings else "lm_head.weight"

    @on_all_cores
    def __call__(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        output_logits: bool = True,
        **options: Any,
    ) -> Any:
        """Logits of the token after each position; arguments as for `BloomModel`, and

        labels: `[B, S]`, each the id of the token at its own position (they are shifted here: the logits at t
            are compared with the label at t + 1), or -100 where it does not count. Gives `loss`, a mean.
        logits_to_keep: compute logits for the last so many positions only; 0 means all.
        output_logits: False, with labels: compute the loss chunk by chunk. `logits` is None, and no array of all
            positions' logits exists, which is the largest of a training step.

        Returns `CausalLMOutputWithPast`, or with `return_dict=False` the tuple of its fields that are not None.
        """
        if not isinstance(logits_to_keep, (int, numpy.integer)) or logits_to_keep < 0:
            raise InputError(f"logits_to_keep is {logits_to_keep!r}, expected 0 (all) or a number of positions.")
        logits_to_keep = int(logits_to_keep)  # the negative of one of NumPy's without a sign is another number
        if labels is not None:
            shape = self._check_input(input_ids, inputs_embeds).shape[:2]
            labels = self._check_classes(labels, "labels", shape, self.config.vocab_size, "ids")
            if logits_to_keep:
                raise InputError("logits_to_keep cannot be used with labels: the loss needs all positions' logits.")
        if labels is None and not output_logits:
            raise InputError("output_logits=False needs labels: without logits and loss there is nothing to return.")
        base, run = self._base(
            input_ids, past_key_values, attention_mask, head_mask, inputs_embeds,
            use_cache, output_attentions, output_hidden_states,
            (self.head_matrix, logits_to_keep) if labels is None else None, **options,
        )  # fmt: skip
        hidden, weight = base.last_hidden_state, self.params[self.head_matrix]
        logits, loss = run.logits, None
        if logits is not None:
            pass  # the stack and the head were one loop
        elif output_logits:
            kept = hidden[:, -logits_to_keep:]  # all of them where it is 0, as -0 is 0
            with self._within_memory():
                logits = run.watch("lm_head", linear(kept, weight))  # [B, S, E] -> [B, S, V]
            if labels is not None:
                loss, dlogits = cross_entropy(logits, shift(labels))
                run.watch("lm_head.grad", dlogits)  # [B, S, V]
        else:
            derived = run.watch.wants("lm_head.dhidden")
            loss, dhidden, dweight = chunked_cross_entropy(hidden, weight, shift(labels), backward=derived)
            if derived:
                run.watch("lm_head.dhidden", dhidden)  # [B, S, E]
                run.watch("lm_head.dweight", dweight)  # [V, E]
        out = CausalLMOutputWithPast(loss, logits, base.past_key_values, base.hidden_states, base.attentions)
        return self._finish(run, out, return_dict)

    def _head_backward(self, tape: Mapping[str, Array], grads: MutableMapping[str, Array]) -> Array:
        if "lm_head.dhidden" in tape:
            grads[self.head_matrix] = tape["lm_head.dweight"]
            return tape["lm_head.dhidden"]
        weight = self.params[self.head_matrix]
        d, grads[self.head_matrix], _ = linear_backward(tape["lm_head.grad"], tape["ln_f"], weight)
        return d

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: Any = None,
        dtype: Any = None,
        backend: str = "numpy",
        revision: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As of all models; and `generation_config` is what the checkpoint's `generation_config.json` says."""
        from .generation.settings import GenerationConfig

        refuse_loading(kwargs)  # before anything is fetched
        folder = fetch(path_or_repo, revision=revision)  # once for both
        settings = GenerationConfig.from_pretrained(folder)  # first: JSON that is none is seen before weights are read
        model = super().from_pretrained(folder, dtype, backend, revision, *args, **kwargs)
        model.generation_config = settings
        return model

    def save_pretrained(self, folder: Any, dtype: str | None = None, max_shard_size: int = 5 * 10**9) -> None:
        """As of all models; with `generation_config.json`, if there is anything to say in it."""
        from .generation.settings import GenerationConfig

        super().save_pretrained(folder, dtype, max_shard_size)
        settings = GenerationConfig.of(self.generation_config)
        if settings.to_dict() or settings.refused:
            settings.save_pretrained(folder)
        else:  # an earlier model's, which a reader would take for this one's
            (Path(folder).expanduser() / "generation_config.json").unlink(missing_ok=True)

    def generate(self, input_ids: Any = None, attention_mask: Any = None, **settings: Any) -> Any:
        """Prompts and what follows them, as ids `[B, S + new]`. See `minibloom.generation.generate` for all arguments,
        and `minibloom.generation.GenerationConfig` for all settings.

        model.generate(input_ids, attention_mask=mask, max_new_tokens=50, do_sample=True, top_p=0.9, seed=0)
        """
        from .generation import generate

        return generate(self, input_ids, attention_mask, **settings)

    def compute_transition_scores(
        self, sequences: Array, scores: Any, beam_indices: Array | None = None, normalize_logits: bool = False
    ) -> Array:
        """The score `[B * N, new]` of each token that `generate` chose. See `minibloom.generation.transition_scores`.

        out = model.generate(ids, return_dict_in_generate=True, output_scores=True)
        model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
        """
        from .generation import transition_scores

        return transition_scores(sequences, scores, beam_indices, normalize_logits)


class BloomForSequenceClassification(PreTrainedModel):
    """BLOOM that gives each text a label, several labels, or numbers: a matrix on the last token's hidden state.

    The last token is the last whose id is not config's `pad_token_id`, whatever the attention mask says. It is the
    last position without a `pad_token_id`, which only a single row may do without, and with `inputs_embeds`, which
    have no ids.
    """

    head, labels = "score", ("labels",)

    @classmethod
    def head_shapes(cls, config: BloomConfig) -> dict[str, tuple[int, ...]]:
        return {"score.weight": (config.num_labels, config.hidden_size)}

    @on_all_cores
    def __call__(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Logits `[B, num_labels]` of each row; arguments as for `BloomModel`, and

        labels: give `loss`, a mean. What they are depends on config's `problem_type`:
            "single_label_classification": classes `[B]`, whole numbers from 0 to num_labels - 1, or -100 where a row
                does not count; cross-entropy.
            "multi_label_classification": for each class whether it holds, `[B, num_labels]`, 0 to 1; binary
                cross-entropy of each.
            "regression": numbers `[B, num_labels]`, or `[B]` where num_labels is 1; mean squared error.
            None: regression if num_labels is 1; else single label if `labels` are whole numbers, multi label if not.

        Returns `SequenceClassifierOutputWithPast`, or with `return_dict=False` the tuple of its fields that are not
        None.
        """
        x = self._check_input(input_ids, inputs_embeds)
        last = self._last_token(x, inputs_embeds is not None)
        problem = ""
        if labels is not None:
            problem, labels = self._check_targets(labels, len(x))
        base, run = self._base(
            input_ids, past_key_values, attention_mask, head_mask, inputs_embeds,
            use_cache, output_attentions, output_hidden_states, **options,
        )  # fmt: skip
        last = run.watch("last_token", last)  # [B]
        pooled = base.last_hidden_state[self.xp.arange(len(last)), last]  # [B, S, E] -> [B, E]
        logits = run.watch("score", linear(pooled, self.params["score.weight"]))  # [B, E] -> [B, num_labels]
        loss = None
        if labels is not None:
            loss, dlogits = LOSSES[problem](logits, labels)
            run.watch("score.grad", dlogits)  # [B, num_labels]
        out = SequenceClassifierOutputWithPast(loss, logits, base.past_key_values, base.hidden_states, base.attentions)
        return self._finish(run, out, return_dict)

    def _head_backward(self, tape: Mapping[str, Array], grads: MutableMapping[str, Array]) -> Array:
        hidden, last = tape["ln_f"], tape["last_token"]
        rows = self.xp.arange(len(last))
        d = self.xp.zeros_like(hidden)  # [B, S, E]: only the last tokens were read
        d[rows, last], grads["score.weight"], _ = linear_backward(
            tape["score.grad"], hidden[rows, last], self.params["score.weight"]
        )
        return d

    def count_labels(self, batch: Mapping[str, Any]) -> int:
        problem, labels = self._check_targets(batch["labels"], len(batch["labels"]))
        return super().count_labels({"labels": labels}) if problem == "single_label_classification" else labels.size

    def _last_token(self, x: Array, embedded: bool) -> Array:
        """The place `[B]` of each row's last token; 0 in a row that is all padding."""
        (B, S), pad = x.shape[:2], self.config.pad_token_id
        if pad is None and B > 1:
            raise InputError(
                f"a batch of {B} rows needs config.pad_token_id, which is None, to find the last token of each. "
                "Set it: model.config.pad_token_id = tokenizer.pad_token_id; or give one row at a time."
            )
        if pad is None or embedded:
            return self.xp.full(B, S - 1)
        return (self.xp.arange(S) * (x != pad)).argmax(-1)  # [B, S] -> [B]

    def _check_targets(self, labels: Any, B: int) -> tuple[str, Array]:
        """The kind of problem that config names or `labels` show, and the labels as its loss takes them."""
        count, problem = self.config.num_labels, self.config.problem_type
        if problem is None:
            kind = backends.received(labels, self.xp, "labels")[0].dtype.kind
            classes = "single_label_classification" if kind in "iu" else "multi_label_classification"
            problem = "regression" if count == 1 else classes
        try:
            if problem == "single_label_classification":
                return problem, self._check_classes(labels, "labels", (B,), count, "classes")
            shapes = [(B, count), *([(B,)] if count == 1 else [])]
            host, moved = self._check_labels(labels, "labels", shapes, whole=False)
            if problem == "multi_label_classification" and not ((host >= 0) & (host <= 1)).all():
                raise InputError("labels holds numbers outside 0 (does not hold) to 1 (holds).")
        except InputError as error:
            why = "" if self.config.problem_type else " (config.problem_type is None, so num_labels and dtype decide)"
            raise InputError(f"{error} The problem is {problem}{why}, with num_labels={count}.") from None
        return problem, moved.reshape(B, count)


LOSSES: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "single_label_classification": cross_entropy,
    "multi_label_classification": binary_cross_entropy,
    "regression": mean_squared_error,
}


class BloomForTokenClassification(PreTrainedModel):
    """BLOOM that gives each token a label: dropout, then a matrix, on each hidden state."""

    head, labels = "classifier", ("labels",)

    @classmethod
    def head_shapes(cls, config: BloomConfig) -> dict[str, tuple[int, ...]]:
        n, E = config.num_labels, config.hidden_size
        return {"classifier.weight": (n, E), "classifier.bias": (n,)}

    @on_all_cores
    def __call__(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Logits `[B, S, num_labels]` of each token; arguments as for `BloomModel`, and

        labels: `[B, S]`, classes from 0 to num_labels - 1, or -100 where a token does not count. Gives `loss`, a mean.

        Returns `TokenClassifierOutput`, which has no cache, or with `return_dict=False` the tuple of its fields that
        are not None. In training, config's `classifier_dropout`, or else its `hidden_dropout`, thins the hidden states
        out.
        """
        if labels is not None:
            shape = self._check_input(input_ids, inputs_embeds).shape[:2]
            labels = self._check_classes(labels, "labels", shape, self.config.num_labels, "classes")
        base, run = self._base(
            input_ids, past_key_values, attention_mask, head_mask, inputs_embeds,
            False, output_attentions, output_hidden_states, **options,
        )  # fmt: skip
        given = self.config.classifier_dropout
        probability = self.config.hidden_dropout if given is None else given
        hidden = dropout(base.last_hidden_state, probability, "classifier.dropout", run)
        weight, bias = self.params["classifier.weight"], self.params["classifier.bias"]
        logits = run.watch("classifier", linear(hidden, weight, bias))  # [B, S, E] -> [B, S, num_labels]
        loss = None
        if labels is not None:
            loss, dlogits = cross_entropy(logits, labels)
            run.watch("classifier.grad", dlogits)  # [B, S, num_labels]
        out = TokenClassifierOutput(loss, logits, base.hidden_states, base.attentions)
        return self._finish(run, out, return_dict)

    def _head_backward(self, tape: Mapping[str, Array], grads: MutableMapping[str, Array]) -> Array:
        weight, factors = self.params["classifier.weight"], tape.get("classifier.dropout", 1.0)
        d, grads["classifier.weight"], grads["classifier.bias"] = linear_backward(
            tape["classifier.grad"], tape["ln_f"] * factors, weight
        )
        return d * factors


class BloomForQuestionAnswering(PreTrainedModel):
    """BLOOM that finds an answer in a text: two logits a token, for the answer's start and for its end."""

    head, labels = "qa_outputs", ("start_positions", "end_positions")

    @classmethod
    def head_shapes(cls, config: BloomConfig) -> dict[str, tuple[int, ...]]:
        return {"qa_outputs.weight": (2, config.hidden_size), "qa_outputs.bias": (2,)}

    @on_all_cores
    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: None = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        start_positions: Any = None,
        end_positions: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """Start and end logits `[B, S]` each; arguments as for `BloomModel`, which has them in another order, and

        position_ids: None; it stands here because the documentation has it in this place.
        start_positions, end_positions: `[B]`, places of the first and last token of the answer. A place below 0 counts
            as 0, as in the reference; one that lies past the sequence is not taken into account. Give `loss`, the
            mean of both ends' cross-entropies over the S positions.

        Returns `QuestionAnsweringModelOutput`, or with `return_dict=False` the tuple of its fields that are not None.
        """
        if position_ids is not None:
            options["position_ids"] = position_ids  # which `_base` refuses, and says why
        B, S = self._check_input(input_ids, inputs_embeds).shape[:2]
        spans = self._check_spans(start_positions, end_positions, B, S)
        base, run = self._base(
            input_ids, None, attention_mask, head_mask, inputs_embeds,
            False, output_attentions, output_hidden_states, **options,
        )  # fmt: skip
        weight, bias = self.params["qa_outputs.weight"], self.params["qa_outputs.bias"]
        logits = run.watch("qa_outputs", linear(base.last_hidden_state, weight, bias))  # [B, S, E] -> [B, S, 2]
        start, end = logits[..., 0], logits[..., 1]  # [B, S] each: S classes, one of which is the place
        loss = None
        if spans is not None:
            start_loss, dstart = cross_entropy(start, spans[0])
            end_loss, dend = cross_entropy(end, spans[1])
            loss = (start_loss + end_loss) / 2
            run.watch("qa_outputs.grad", self.xp.stack([dstart, dend], -1) / 2)  # 2x [B, S] -> [B, S, 2]
        out = QuestionAnsweringModelOutput(loss, start, end, base.hidden_states, base.attentions)
        return self._finish(run, out, return_dict)

    def _head_backward(self, tape: Mapping[str, Array], grads: MutableMapping[str, Array]) -> Array:
        d, grads["qa_outputs.weight"], grads["qa_outputs.bias"] = linear_backward(
            tape["qa_outputs.grad"], tape["ln_f"], self.params["qa_outputs.weight"]
        )
        return d

    def count_labels(self, batch: Mapping[str, Any]) -> int:
        starts, ends = (batch[name] for name in self.labels)
        x = batch["input_ids"] if batch.get("input_ids") is not None else batch["inputs_embeds"]
        spans = self._check_spans(starts, ends, *backends.to_numpy(x).shape[:2]) or []  # start and end of each: two
        return super().count_labels(dict(zip(self.labels, spans, strict=True)))

    def _check_spans(self, starts: Any, ends: Any, B: int, S: int) -> list[Array] | None:
        """Both places `[B]` of each answer, those past the sequence as -100; None without."""
        given = {"start_positions": starts, "end_positions": ends}
        missing = [name for name, places in given.items() if places is None]
        if len(missing) == 1:
            raise InputError(f"{missing[0]} is missing: give both start_positions and end_positions, or neither.")
        if missing:
            return None
        spans = []
        for name, places in given.items():
            places = self._check_labels(places, name, [(B,), (B, 1)], whole=True)[1].reshape(B).clip(0, S)
            spans.append(self.xp.where(places == S, IGNORE, places))
        return spans
