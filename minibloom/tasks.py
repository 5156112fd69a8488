"""The tasks of the three labelled heads: examples to batches, logits to answers, and how right these are.

Each class says what an example of its task is; what a model reads of it, as rows of tokens (`encode`); what it is
taught about these (`labelled`, `collate`); what its logits for them mean (`read`); and how that is measured
(`measure`). Training, evaluation and prediction are the same for all three, and stand in the class that they share.

Formats and choices are those of the documentation's task guides, answers have the form of its pipelines.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy

from .backend import Array, to_numpy
from .base import PreTrainedModel
from .config import BloomConfig
from .errors import InputError
from .examples import Examples, answers_of, class_of, field_of, flat, is_decimal, names_for, number_of, text_of
from .layers.softmax import softmax
from .losses import IGNORE
from .metrics import accuracy, answer_f1, entities, exact_match, f1_of_sets, mean
from .models import BloomForQuestionAnswering, BloomForSequenceClassification, BloomForTokenClassification
from .settings import TrainingSettings
from .tokenizer import NO_LIMIT, BloomTokenizerFast

Row = dict[str, Any]


class HeadTask(ABC):
    """What the three share. `examples` are learnt, `held_out` ones are measured; to predict, neither is needed.

    A model reads at most the tokenizer's `model_max_length` tokens at a time, and names its labels as `config` does.
    """

    example: ClassVar[str]  # a line of a file of them
    model: ClassVar[type[PreTrainedModel]]  # the kind of
    tokenizer_options: ClassVar[dict[str, Any]] = {}  # that a tokenizer for it is loaded with
    per_token: ClassVar[bool] = True  # are there logits for each token?

    def __init__(
        self,
        tokenizer: BloomTokenizerFast,
        config: BloomConfig,
        examples: Examples = Examples(),  # noqa: B008 (nobody changes it)
        held_out: Examples = Examples(),  # noqa: B008
    ) -> None:
        if tokenizer.pad_token_id is None:
            raise InputError("padding needs a padding token: set tokenizer.pad_token = tokenizer.eos_token.")
        self.tokenizer, self.config = tokenizer, config
        self.rows = [self.labelled(place, x, row) for place, x, rows in self._encoded(examples) for row in rows]
        self.held_out = self._encoded(held_out)
        for place, x, rows in self.held_out:
            self.labelled(place, x, rows[0])  # a label that cannot be measured is said now, not after training

    # --- what each task does in its own way ---

    @classmethod
    def config_for(cls, examples: Examples, config: BloomConfig) -> dict[str, Any]:
        """The fields of the configuration that labels as those of `examples` need."""
        return {}

    @classmethod
    def as_example(cls, given: Any) -> Any:
        """What `predict` is given, as an example without labels."""
        return given

    @abstractmethod
    def encode(self, place: str, example: Any) -> list[Row]:
        """What a model reads of an example: one row with `input_ids`, or several windows; and what `read` needs."""

    @abstractmethod
    def labelled(self, place: str, example: Any, row: Row) -> Row:
        """What a model is taught about a row: `input_ids` and labels."""

    @abstractmethod
    def collate(self, rows: Sequence[Row], mask: Array) -> dict[str, Array]:
        """The labels of a batch of rows that were padded to `mask [B, S]`."""

    @abstractmethod
    def read(self, example: Any, rows: Sequence[Row], logits: Sequence[Mapping[str, Array]]) -> Any:
        """The answer to an example, from the logits of each of its rows, without those of padding."""

    @abstractmethod
    def measure(self, answers: Sequence[Any], examples: Sequence[Any]) -> dict[str, float]:
        """How right answers are, given the examples."""

    # --- what is the same for all: see `minibloom.training.Task` ---

    def batches(self, s: TrainingSettings, start: int = 0) -> Iterator[dict[str, Array]]:
        """Padded batches from number `start` on. The rows are shuffled anew each time that all were read."""
        count, size = len(self.rows), s.batch_size

        @functools.lru_cache(maxsize=2)
        def order(epoch: int) -> Any:
            return numpy.random.default_rng([s.seed, 1, epoch]).permutation(count)

        for first in itertools.count(start * size, size):
            rows = [self.rows[order(i // count)[i % count]] for i in range(first, first + size)]
            batch = self._padded(rows)
            yield batch | self.collate(rows, batch["attention_mask"])

    def digest(self) -> str:
        """A fingerprint of all rows and their labels."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row, default=lambda array: array.tolist()).encode())
        return digest.hexdigest()

    def evaluate(self, model: PreTrainedModel, s: TrainingSettings) -> dict[str, float]:
        """How right the model's answers to what was held out are."""
        if not self.held_out:
            return {}
        answers = self._answers(model, self.held_out, s.batch_size)
        figures = self.measure(answers, [x for _, x, _ in self.held_out])
        return {f"validation_{name}": value for name, value in figures.items()}

    def predict(self, model: PreTrainedModel, examples: Examples, batch_size: int = 16) -> list[Any]:
        """The model's answers to examples, which need no labels."""
        return self._answers(model, self._encoded(examples), batch_size)

    def _encoded(self, examples: Examples) -> list[tuple[str, Any, list[Row]]]:
        return [(place, example, self.encode(place, example)) for place, example in examples.items()]

    def _answers(
        self, model: PreTrainedModel, encoded: Sequence[tuple[str, Any, list[Row]]], batch_size: int
    ) -> list[Any]:
        logits = self._logits(model, [row for _, _, rows in encoded for row in rows], batch_size)
        return [self.read(x, rows, [*itertools.islice(logits, len(rows))]) for _, x, rows in encoded]

    def _logits(self, model: PreTrainedModel, rows: Sequence[Row], batch_size: int) -> Iterator[dict[str, Array]]:
        """The logits of each row, by name, on the host. Those of the tokens are without those of padding."""
        for first in range(0, len(rows), batch_size):
            batch = self._padded(rows[first : first + batch_size])
            mask = batch["attention_mask"].astype(bool)
            out = model(**batch, return_dict=True)
            logits = {name: to_numpy(value) for name, value in out.items() if name.endswith("logits")}
            for i, real in enumerate(mask):
                yield {name: x[i][real] if self.per_token else x[i] for name, x in logits.items()}

    def _named(self, labels: Iterable[Any]) -> list[str]:
        return [self.config.id2label[class_of("", label, self.config)] for label in labels]

    def _padded(self, rows: Sequence[Row]) -> dict[str, Array]:
        """`input_ids [B, S]` and `attention_mask [B, S]`, on the tokenizer's padding side."""
        return dict(self.tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="np"))


class TextClassification(HeadTask):
    """A text has a label, several of them, or a number: see `example`.

    label: the name of a class, or its number; or a list of the names that hold; or a decimal number to be foreseen.
    An answer lists every label with its probability, the likeliest first. For a number, it is the "score".
    Measured is accuracy; for several labels F1 over the labels of all texts (micro F1), of which those of 50 % and more
    count as given; for numbers the mean squared error.
    """

    example = '{"text": "I loved it", "label": "positive"}'
    model = BloomForSequenceClassification
    per_token = False

    @classmethod
    def config_for(cls, examples: Examples, config: BloomConfig) -> dict[str, Any]:
        labels = {place: field_of(place, example, "label") for place, example in examples.items()}
        lists = {place: label for place, label in labels.items() if isinstance(label, list | tuple)}
        if lists:
            problem, names = "multi_label_classification", names_for(flat(lists), config, at_least=1)
        elif config.problem_type == "regression" or any(map(is_decimal, labels.values())):
            problem, names = "regression", {0: "LABEL_0"}
        else:
            problem, names = "single_label_classification", names_for(labels.items(), config)
        if config.problem_type not in (problem, None):
            raise InputError(f"config.problem_type is {config.problem_type!r}, but the labels are for {problem}.")
        return {"id2label": names, "problem_type": problem}

    @classmethod
    def as_example(cls, given: Any) -> Any:
        return {"text": given} if isinstance(given, str) else given

    def encode(self, place: str, example: Any) -> list[Row]:
        text = text_of(place, example, "text")
        return [{"input_ids": numpy.array(self.tokenizer(text, truncation=True)["input_ids"], "int32")}]

    def labelled(self, place: str, example: Any, row: Row) -> Row:
        label = field_of(place, example, "label")
        if problem_of(self.config) == "regression":
            return row | {"labels": number_of(place, label)}
        if problem_of(self.config) == "single_label_classification":
            return row | {"labels": class_of(place, label, self.config)}
        if not isinstance(label, list | tuple):
            raise InputError(f"{place}: the label is {label!r}, expected a list of names, as other examples have one.")
        hold = {class_of(place, one, self.config) for one in label}
        return row | {"labels": [float(i in hold) for i in range(self.config.num_labels)]}

    def collate(self, rows: Sequence[Row], mask: Array) -> dict[str, Array]:
        return {"labels": numpy.array([row["labels"] for row in rows])}  # [B], or [B, num_labels]

    def read(self, example: Any, rows: Sequence[Row], logits: Sequence[Mapping[str, Array]]) -> list[dict[str, Any]]:
        scores = SCORES[problem_of(self.config)](logits[0]["logits"])  # [num_labels]
        order = (-scores).argsort(kind="stable")
        return [{"label": self.config.id2label[int(i)], "score": float(scores[i])} for i in order]

    def measure(self, answers: Sequence[Any], examples: Sequence[Any]) -> dict[str, float]:
        labels = [example["label"] for example in examples]
        if problem_of(self.config) == "regression":
            errors = [answer[0]["score"] - number_of("", label) for answer, label in zip(answers, labels, strict=True)]
            return {"mean_squared_error": mean([error * error for error in errors])}
        if problem_of(self.config) == "single_label_classification":
            return {"accuracy": accuracy([answer[0]["label"] for answer in answers], self._named(labels))}
        given = [{one["label"] for one in answer if one["score"] >= 0.5} for answer in answers]
        return {"micro_f1": f1_of_sets(given, [set(self._named(label)) for label in labels])}


def problem_of(config: BloomConfig) -> str:
    """What a text classifier's labels are, of the three below."""
    alone = "regression" if config.num_labels == 1 else "single_label_classification"  # as in the model
    return config.problem_type or alone


SCORES: dict[str, Callable[[Array], Array]] = {
    "single_label_classification": softmax,
    "multi_label_classification": lambda z: (1 + numpy.tanh(z / 2)) / 2,  # the sigmoid
    "regression": lambda z: z,
}


class TokenClassification(HeadTask):
    """Each word has a tag: see `example`.

    ner_tags: names, or numbers. A word's tag is learnt, and read, at the first of the word's tokens, as the guide has
        it. (BLOOM looks back only, so it is found before the rest of the word is read.)
    An answer lists for each word its likeliest tag and that one's probability.
    Measured is the accuracy over all words; and where tags are like `B-PER`, `I-PER` and `O`, the F1 of whole entities.
    """

    example = '{"tokens": ["Ana", "lives", "in", "Lima"], "ner_tags": ["B-PER", "O", "O", "B-LOC"]}'
    model = BloomForTokenClassification
    tokenizer_options: ClassVar = {"add_prefix_space": True}  # the first word is read like any other

    @classmethod
    def config_for(cls, examples: Examples, config: BloomConfig) -> dict[str, Any]:
        tags = {place: field_of(place, example, "ner_tags") for place, example in examples.items()}
        return {"id2label": names_for(flat(tags), config)}

    @classmethod
    def as_example(cls, given: Any) -> Any:
        words = given.split() if isinstance(given, str) else given
        return words if isinstance(words, Mapping) else {"tokens": words}

    def encode(self, place: str, example: Any) -> list[Row]:
        words = field_of(place, example, "tokens")
        if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) for word in words):
            raise InputError(f"{place}: tokens is {reprlib.repr(words)}, expected a list of words.")
        encoded = self.tokenizer(list(words), is_split_into_words=True)
        of = encoded.word_ids()  # [S], the number of each token's word
        silent = sorted(set(range(len(words))) - set(of))
        if silent:
            raise InputError(f"{place}: word {silent[0] + 1} is {words[silent[0]]!r}, which has no token. Take it out.")
        firsts = [i for i, word in enumerate(of) if i == 0 or word != of[i - 1]]
        return [{"input_ids": numpy.array(encoded["input_ids"], "int32"), "firsts": firsts}]

    def labelled(self, place: str, example: Any, row: Row) -> Row:
        tags = field_of(place, example, "ner_tags")
        if not isinstance(tags, list | tuple) or len(tags) != len(row["firsts"]):
            given = f"{len(tags)}" if isinstance(tags, list | tuple) else reprlib.repr(tags)
            raise InputError(f"{place}: there are {len(row['firsts'])} words and {given} tags, expected one for each.")
        labels = numpy.full_like(row["input_ids"], IGNORE)
        labels[row["firsts"]] = [class_of(place, tag, self.config) for tag in tags]
        limit = min(self.tokenizer.model_max_length, len(labels))  # what follows changes nothing before it
        return {"input_ids": row["input_ids"][:limit], "labels": labels[:limit]}

    def collate(self, rows: Sequence[Row], mask: Array) -> dict[str, Array]:
        labels = numpy.full_like(mask, IGNORE)
        labels[mask == 1] = numpy.concatenate([row["labels"] for row in rows])
        return {"labels": labels}  # [B, S]

    def read(self, example: Any, rows: Sequence[Row], logits: Sequence[Mapping[str, Array]]) -> list[dict[str, Any]]:
        probs = softmax(logits[0]["logits"][rows[0]["firsts"]])  # [words, num_labels]
        return [
            {"word": word, "entity": self.config.id2label[int(p.argmax())], "score": float(p.max())}
            for word, p in zip(example["tokens"], probs, strict=True)
        ]

    def measure(self, answers: Sequence[Any], examples: Sequence[Any]) -> dict[str, float]:
        given = [[word["entity"] for word in answer] for answer in answers]
        right = [self._named(example["ner_tags"]) for example in examples]
        figures = {"accuracy": accuracy([*itertools.chain(*given)], [*itertools.chain(*right)])}
        if all(name == "O" or name[:2] in ("B-", "I-") for name in self.config.id2label.values()):
            figures["entity_f1"] = f1_of_sets([*map(entities, given)], [*map(entities, right)])
        return figures


class QuestionAnswering(HeadTask):
    """The answer to a question is a piece of its context, as in SQuAD: see `example`.

    answers: the first is learnt, all are right; none (empty lists) where the context does not say.
    A context that is too long is read in windows, each of which begins with the question, and repeats a third of a
    window. In one without the answer, start and end are taught to be the first token, as in the guide. BLOOM looks
    back only, so the logits of that token are the same in all windows of a question, and can be compared in all.
    An answer has the text that is likeliest, where it stands in the context, its probability, and "no_answer", that of
    there being none.
    Measured are exact match and F1 of the words of the answer, as SQuAD defines them. An empty answer is given only if
    some examples have none.
    """

    example = (
        '{"question": "Where?", "context": "Ana lives in Lima.", "answers": {"text": ["Lima"], "answer_start": [13]}}'
    )
    model = BloomForQuestionAnswering

    def encode(self, place: str, example: Any) -> list[Row]:
        question, context = (text_of(place, example, name) for name in ("question", "context"))
        limit = self.tokenizer.model_max_length
        stride = limit // 3 if limit < NO_LIMIT else 0
        asked = len(self.tokenizer(question)["input_ids"])
        if asked + stride >= limit:
            raise InputError(
                f"{place}: the question has {asked} tokens, too many to leave room for its context in windows of "
                f"{limit} tokens, which repeat {stride}. Give a larger context_length."
            )
        windows = self.tokenizer(
            [question], [context], truncation="only_second", stride=stride,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        return [
            {"input_ids": numpy.array(ids, "int32"), "asked": asked, "spans": numpy.array(spans[asked:], "int32")}
            for ids, spans in zip(windows["input_ids"], windows["offset_mapping"], strict=True)
        ]

    def labelled(self, place: str, example: Any, row: Row) -> Row:
        start, end = 0, 0
        for text, begin in answers_of(place, example)[:1]:
            begins, ends = row["spans"].T  # [tokens of the context], in its characters
            if begins[0] <= begin and begin + len(text) <= ends[-1]:
                start = row["asked"] + int(ends.searchsorted(begin, side="right"))  # the first token to end behind it
                end = row["asked"] + int(begins.searchsorted(begin + len(text))) - 1  # the last to begin before its end
        return {"input_ids": row["input_ids"], "start_positions": start, "end_positions": end}

    def collate(self, rows: Sequence[Row], mask: Array) -> dict[str, Array]:
        padding = mask.argmax(-1)  # [B], on the left of each row
        names = ("start_positions", "end_positions")
        return {name: padding + numpy.array([row[name] for row in rows]) for name in names}  # [B] each

    def read(self, example: Any, rows: Sequence[Row], logits: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
        found = [self._best(row, out["start_logits"], out["end_logits"]) for row, out in zip(rows, logits, strict=True)]
        best = max(found, key=lambda one: one["logit"])
        text = example["context"][best["start"] : best["end"]]
        start = best["end"] - len(text.lstrip())  # a token has the space before it
        text = text.strip()
        scores = {name: best[name] for name in ("score", "no_answer")}
        return {"answer": text, "start": start, "end": start + len(text), **scores}

    def _best(self, row: Row, start: Array, end: Array) -> dict[str, Any]:
        """The likeliest span of a window with logits `[S]`, in characters of the context."""
        begins, ends = start[row["asked"] :], end[row["asked"] :]  # [tokens of the context]
        last = int((numpy.maximum.accumulate(begins) + ends).argmax())  # each end, with the best start up to it
        first = int(begins[: last + 1].argmax())
        p, q, at = softmax(start), softmax(end), row["asked"]
        return {
            "logit": float(begins[first] + ends[last]),
            "start": int(row["spans"][first, 0]),
            "end": int(row["spans"][last, 1]),
            "score": float(p[at + first] * q[at + last]),
            "no_answer": float(p[0] * q[0]),
        }

    def measure(self, answers: Sequence[Any], examples: Sequence[Any]) -> dict[str, float]:
        right = [[text for text, _ in answers_of("", example)] or [""] for example in examples]
        may_be_empty = [""] in right
        given = [
            "" if may_be_empty and answer["no_answer"] > answer["score"] else answer["answer"] for answer in answers
        ]
        return {"exact_match": mean([*map(exact_match, given, right)]), "f1": mean([*map(answer_f1, given, right)])}


TASKS: dict[str, type[HeadTask]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
}
