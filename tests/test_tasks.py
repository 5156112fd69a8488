"""The three tasks: what a model reads and is taught, by hand; what its logits mean; and how right that is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomTokenizerFast
from minibloom.errors import InputError
from minibloom.examples import Examples, read_examples
from minibloom.settings import TrainingSettings
from minibloom.tasks import TASKS, HeadTask, QuestionAnswering, TextClassification, TokenClassification

from . import tiny
from .strategies import few, normal, random_model, some

PAD = 3
SIDES = st.sampled_from(["left", "right"])
words = st.text("abcdéñ猫", min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(folder)
    return folder


def reader(folder: Path, side: str = "left", limit: int | None = None) -> BloomTokenizerFast:
    options = {"padding_side": side} | ({"model_max_length": limit} if limit else {})
    return BloomTokenizerFast.from_pretrained(folder, add_prefix_space=True, **options)


def placed(examples: list[Any]) -> Examples:
    return Examples({f"examples[{i}]": one for i, one in enumerate(examples)})


def config(kind: type[HeadTask], examples: list[Any], **fields: Any) -> BloomConfig:
    """What `finetune` makes of the configuration of a model for these examples."""
    return tiny.config(**fields, **kind.config_for(placed(examples), BloomConfig()))


def task(kind: type[HeadTask], tokenizer: BloomTokenizerFast, examples: list[Any], **options: Any) -> HeadTask:
    return kind(tokenizer, config(kind, examples), placed(examples), **options)


def in_order(made: HeadTask) -> dict[str, Any]:
    """One batch of all rows, in the order in which they are given."""
    batch = made._padded(made.rows)
    return batch | made.collate(made.rows, batch["attention_mask"])


def padded(rows: list[list[int]], fill: int, side: str) -> list[list[int]]:
    longest = max(map(len, rows))
    return [[fill] * (longest - len(r)) + r if side == "left" else r + [fill] * (longest - len(r)) for r in rows]


def assert_batch(batch: dict[str, Any], **expected: Any) -> None:
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert batch[name].dtype.kind == numpy.array(value).dtype.kind, name
        numpy.testing.assert_array_equal(batch[name], value, err_msg=name)


TEXTS = [
    {"text": "the cat", "label": "en"},
    {"text": "le chat dort sur le toit", "label": "fr"},
    {"text": "猫", "label": "zh"},
]
TAGGED = [
    {"tokens": ["the", "cat", "sat"], "ner_tags": ["O", "B-ANIMAL", "O"]},
    {"tokens": ["déjà", "vert,"], "ner_tags": ["O", "I-ANIMAL"]},
]
CONTEXT = "the cat sat on the mat, and the dog sat on the log."
ASKED = [
    {"question": "who?", "context": CONTEXT, "answers": {"text": ["the dog"], "answer_start": [28]}},
    {"question": "where is the cat?", "context": CONTEXT, "answers": {"text": ["mat"], "answer_start": [19]}},
    {"question": "why?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
]


# --- What a model reads and is taught ---


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_padded_with_their_labels_beside_them(folder, side):
    tokenizer = reader(folder, side)
    ids = [tokenizer(one["text"])["input_ids"] for one in TEXTS]
    assert len({len(row) for row in ids}) == 3
    assert_batch(
        in_order(task(TextClassification, tokenizer, TEXTS)),
        input_ids=padded(ids, PAD, side),
        attention_mask=padded([[1] * len(row) for row in ids], 0, side),
        labels=[0, 1, 2],
    )


def test_labels_are_what_the_loss_of_their_problem_takes(folder):
    for labels, problem, expected in [
        (["b", "a", "b"], "single_label_classification", [1, 0, 1]),
        ([2, 0, 1], "single_label_classification", [2, 0, 1]),
        ([0.5, 3, -1.0], "regression", [0.5, 3.0, -1.0]),
        ([["a", "c"], [], ["b"]], "multi_label_classification", [[1.0, 0, 1], [0, 0, 0], [0, 1, 0]]),
    ]:
        examples = [{"text": "x", "label": label} for label in labels]
        made = task(TextClassification, reader(folder), examples)
        assert made.config.problem_type == problem
        batch = in_order(made)
        assert_batch(
            batch, labels=expected, input_ids=batch["input_ids"], attention_mask=numpy.ones_like(batch["input_ids"])
        )
        model = random_model(made.config, 0, kind=TextClassification.model)
        assert math.isfinite(model(**batch).loss)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_words_first_token_has_its_tag_and_no_other_has_one(folder, side):
    tokenizer = reader(folder, side)
    names = ["B-ANIMAL", "I-ANIMAL", "O"]
    ids, labels = [], []
    for example in TAGGED:
        row: list[int] = []
        its: list[int] = []
        for word, tag in zip(example["tokens"], example["ner_tags"], strict=True):
            pieces = tokenizer(word)["input_ids"]  # with a space before it, as in a sentence
            row, its = row + pieces, [*its, names.index(tag), *[-100] * (len(pieces) - 1)]
        ids.append(row)
        labels.append(its)
    assert len({len(row) for row in ids}) == 2 and -100 in labels[1]
    made = task(TokenClassification, tokenizer, TAGGED)
    assert made.config.id2label == dict(enumerate(names))
    assert_batch(
        in_order(made),
        input_ids=padded(ids, PAD, side),
        attention_mask=padded([[1] * len(row) for row in ids], 0, side),
        labels=padded(labels, -100, side),
    )


@given(sentence=st.lists(words, min_size=1, max_size=8))
@few
def test_each_word_is_labelled_once_in_order(folder, sentence):
    tags = list(range(len(sentence)))
    examples = [{"tokens": sentence, "ner_tags": tags}, {"tokens": ["a"], "ner_tags": [9]}]
    row = task(TokenClassification, reader(folder), examples).rows[0]
    assert [label for label in row["labels"] if label != -100] == tags
    beginnings = [i for i, label in enumerate(row["labels"]) if label != -100]
    tokens = reader(folder).convert_ids_to_tokens(row["input_ids"])
    assert all(tokens[i].startswith("Ġ") for i in beginnings)


@pytest.mark.parametrize("side", ["left", "right"])
def test_answers_are_first_and_last_tokens_and_no_answer_is_the_rows_first(folder, side):
    tokenizer = reader(folder, side)
    encoded = [tokenizer(one["question"], one["context"]) for one in ASKED]
    ids = [row["input_ids"] for row in encoded]
    shift = [max(map(len, ids)) - len(row) if side == "left" else 0 for row in ids]
    spans = []
    for row, answer in zip(ids, ("the dog", "mat"), strict=False):
        piece = tokenizer(answer)["input_ids"]
        if tokenizer.decode(piece[:1]) == " ":  # a token of the space alone is no part of the answer
            piece = piece[1:]
        starts = [i for i in range(len(row)) if row[i : i + len(piece)] == piece]
        spans += [(start, start + len(piece) - 1) for start in starts]
    assert len(spans) == 2
    assert_batch(
        in_order(task(QuestionAnswering, tokenizer, ASKED)),
        input_ids=padded(ids, PAD, side),
        attention_mask=padded([[1] * len(row) for row in ids], 0, side),
        start_positions=[shift[0] + spans[0][0], shift[1] + spans[1][0], shift[2]],
        end_positions=[shift[0] + spans[0][1], shift[1] + spans[1][1], shift[2]],
    )


@given(context=st.text(min_size=1, max_size=40), data=st.data())
@some
def test_the_tokens_of_an_answer_cover_it_and_no_token_too_many(folder, context, data):
    begin = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(begin + 1, len(context)))
    answers = {"text": [context[begin:end]], "answer_start": [begin]}
    example = {"question": "who?", "context": context, "answers": answers}
    made = task(QuestionAnswering, reader(folder, limit=12), [example])
    windows = made.encode("", example)
    for row, window in zip(made.rows, windows, strict=True):
        spans = window["spans"]
        if row["end_positions"] == 0:
            assert begin < spans[0, 0] or end > spans[-1, 1]
            continue
        first, last = (row[name] - window["asked"] for name in ("start_positions", "end_positions"))
        assert first <= last
        assert spans[first, 0] <= begin < spans[first, 1]
        assert spans[last, 0] < end <= spans[last, 1]
        # Of the tokens of one character, all: the first of them begins the answer, the last ends it.
        assert first == 0 or spans[first - 1, 1] <= begin
        assert last == len(spans) - 1 or spans[last + 1, 0] >= end


@given(context=st.lists(words, min_size=1, max_size=30), limit=st.integers(10, 20))
@few
def test_windows_begin_with_the_question_overlap_by_a_third_and_leave_nothing_out(folder, context, limit):
    tokenizer, text = reader(folder, limit=limit), " ".join(context)
    rows = QuestionAnswering(tokenizer, BloomConfig()).encode("", {"question": "who?", "context": text})
    question, whole = tokenizer("who?")["input_ids"], tokenizer(text)["input_ids"]
    joined: list[int] = []
    for row in rows:
        ids = row["input_ids"].tolist()
        assert ids[: row["asked"]] == question and len(ids) <= limit
        assert len(ids) - row["asked"] == len(row["spans"])
        repeats = limit // 3 if joined else 0
        assert joined[len(joined) - repeats :] == ids[row["asked"] :][:repeats]
        joined += ids[row["asked"] :][repeats:]
    assert joined == whole


def test_what_is_too_long_is_cut_for_learning_and_read_whole_for_tags(folder):
    tokenizer = reader(folder, limit=4)
    (row,) = task(TextClassification, tokenizer, TEXTS[1:2] + TEXTS[:1]).rows[:1]
    assert row["input_ids"].tolist() == reader(folder)(TEXTS[1]["text"])["input_ids"][:4]
    made = task(TokenClassification, tokenizer, TAGGED)
    assert all(len(row["input_ids"]) == len(row["labels"]) == 4 for row in made.rows)
    assert len(made.encode("", TAGGED[1])[0]["firsts"]) == 2
    model = random_model(made.config, 0, kind=TokenClassification.model)
    assert [[one["word"] for one in answer] for answer in made.predict(model, placed(TAGGED))] == [
        example["tokens"] for example in TAGGED
    ]


# --- Batches ---


@given(count=st.integers(1, 12), size=st.integers(1, 9), skip=st.integers(0, 20), seed=st.integers(0, 3))
@few
def test_an_epoch_reads_each_example_once_and_starts_anywhere(folder, count, size, skip, seed):
    examples = [{"text": chr(97 + i), "label": i % 2} for i in range(count)]
    made, s = task(TextClassification, reader(folder), examples), TrainingSettings(batch_size=size, seed=seed)
    source = made.batches(s)
    run = [next(source) for _ in range(skip + 2 * count)]
    read = [token for batch in run for token in batch["input_ids"][:, -1].tolist()]
    epochs = [tuple(read[i : i + count]) for i in range(0, len(read) - count + 1, count)]
    assert all(len(set(epoch)) == count for epoch in epochs)
    assert count < 5 or len(set(epochs)) > 1  # in another order each time
    later = made.batches(s, skip)
    for batch in run[skip:]:
        assert_batch(next(later), **batch)


def test_another_seed_reads_in_another_order_and_other_labels_have_another_fingerprint(folder):
    examples = [{"text": chr(97 + i), "label": i % 2} for i in range(20)]
    made = task(TextClassification, reader(folder), examples)
    first, other = (next(made.batches(TrainingSettings(seed=seed, batch_size=20))) for seed in (0, 1))
    assert not numpy.array_equal(first["input_ids"], other["input_ids"])
    assert made.digest() == task(TextClassification, reader(folder), examples).digest()
    for i, change in ((3, {"label": 0}), (4, {"text": "z"})):
        changed = [*examples[:i], examples[i] | change, *examples[i + 1 :]]
        assert task(TextClassification, reader(folder), changed).digest() != made.digest()
    assert task(TextClassification, reader(folder), examples[::-1]).digest() != made.digest()


# --- What logits mean ---


@given(seed=st.integers(0, 99), size=st.integers(1, 4), side=SIDES, kind=st.sampled_from(list(TASKS)))
@few
def test_answers_do_not_depend_on_what_else_is_in_the_batch(folder, seed, size, side, kind):
    examples = {"text-classification": TEXTS, "token-classification": TAGGED, "question-answering": ASKED}[kind]
    made = task(TASKS[kind], reader(folder, side, limit=24), examples)
    model = random_model(made.config, seed, kind=made.model)
    alone, together = (made.predict(model, placed(examples), n) for n in (1, size))
    assert flat(alone) == pytest.approx(flat(together), rel=1e-9)


def flat(answers: Any) -> dict[str, Any]:
    """Every text and number in nested answers, by its path."""
    if not isinstance(answers, list | dict):
        return {"": answers} if not isinstance(answers, str) else {f"={answers}": 0}
    items = answers.items() if isinstance(answers, dict) else enumerate(answers)
    return {f"{key}.{path}": value for key, one in items for path, value in flat(one).items()}


def test_labels_by_hand(folder):
    z = numpy.log([1.0, 3.0, 4.0])
    made = task(TextClassification, reader(folder), TEXTS)
    answer = made.read(TEXTS[0], made.rows[:1], [{"logits": z}])
    assert [one["label"] for one in answer] == ["zh", "fr", "en"]
    assert [one["score"] for one in answer] == pytest.approx([4 / 8, 3 / 8, 1 / 8])
    several = task(TextClassification, reader(folder), [{"text": "x", "label": ["a", "b", "c"]}])
    answer = several.read({}, [], [{"logits": z}])
    assert [one["label"] for one in answer] == ["c", "b", "a"]
    assert [one["score"] for one in answer] == pytest.approx([4 / 5, 3 / 4, 1 / 2])  # each a sigmoid of its own
    number = task(TextClassification, reader(folder), [{"text": "x", "label": 0.5}])
    assert number.read({}, [], [{"logits": numpy.array([-7.5])}]) == [{"label": "LABEL_0", "score": -7.5}]


def test_tags_by_hand(folder):
    made = task(TokenClassification, reader(folder), TAGGED)
    rows = made.encode("", TAGGED[1])
    logits = numpy.full((len(rows[0]["input_ids"]), 3), 99.0)  # of all other tokens: nobody may look there
    logits[rows[0]["firsts"]] = numpy.log([[1, 1, 2], [6, 3, 1]])
    answer = made.read(TAGGED[1], rows, [{"logits": logits}])
    assert [(one["word"], one["entity"]) for one in answer] == [("déjà", "O"), ("vert,", "B-ANIMAL")]
    assert [one["score"] for one in answer] == pytest.approx([0.5, 0.6])


@given(seed=st.integers(0, 2**31), length=st.integers(1, 9))
def test_the_best_span_is_the_best_of_all_that_end_where_they_start_or_later(folder, seed, length):
    asked, logits = 2, normal(seed, 2, length + 2)
    row = {"asked": asked, "spans": numpy.stack([numpy.arange(length), numpy.arange(length) + 1], 1)}
    best = QuestionAnswering(reader(folder), BloomConfig())._best(row, *logits)
    pairs = {(i, j): logits[0, asked + i] + logits[1, asked + j] for j in range(length) for i in range(j + 1)}
    i, j = max(pairs, key=lambda pair: pairs[pair])
    assert (best["start"], best["end"]) == (i, j + 1)
    p = numpy.exp(logits) / numpy.exp(logits).sum(-1, keepdims=True)
    assert best["score"] == pytest.approx(p[0, asked + i] * p[1, asked + j])
    assert best["no_answer"] == pytest.approx(p[0, 0] * p[1, 0])


@given(context=st.lists(words, min_size=1, max_size=25), limit=st.integers(10, 20), data=st.data())
@some
def test_an_answer_is_read_back_from_the_logits_that_it_was_taught_as(folder, context, limit, data):
    """In whichever windows it stands. It ends between words here, so that no token reaches beyond it."""
    text = " ".join(context)
    first = data.draw(st.integers(0, len(context) - 1))
    last = data.draw(st.integers(first, len(context) - 1))
    answer, begin = " ".join(context[first : last + 1]), len(" ".join([*context[:first], ""]))
    example = {"question": "who?", "context": text, "answers": {"text": [answer], "answer_start": [begin]}}
    made = task(QuestionAnswering, reader(folder, limit=limit), [example])
    assume(any(row["end_positions"] for row in made.rows))  # longer than every window: it cannot be taught
    logits = []
    for row in made.rows:
        one = {name: numpy.zeros(len(row["input_ids"])) for name in ("start_logits", "end_logits")}
        one["start_logits"][row["start_positions"]] = one["end_logits"][row["end_positions"]] = 20
        logits.append(one)
    read = made.read(example, made.encode("", example), logits)
    assert (read["answer"], read["start"], read["end"]) == (answer, begin, begin + len(answer))
    assert read["score"] > 0.99 > read["no_answer"]


# --- How right that is ---


def test_measures_by_hand(folder):
    def ranked(*labels: str) -> list[dict[str, Any]]:
        return [{"label": label, "score": 0.9 - 0.3 * i} for i, label in enumerate(labels)]

    made = task(TextClassification, reader(folder), TEXTS)
    answers = [ranked("en", "zh", "fr"), ranked("en", "fr", "zh"), ranked("zh", "en", "fr")]
    assert made.measure(answers, TEXTS) == {"accuracy": pytest.approx(2 / 3)}
    numbered = [{"text": "x", "label": i} for i in (0, 1, 2)]  # by number, of the same names
    assert made.measure(answers, numbered) == {"accuracy": pytest.approx(2 / 3)}

    several = [{"text": "x", "label": ["a", "b"]}, {"text": "y", "label": ["c"]}]
    made = task(TextClassification, reader(folder), several)
    answers = [ranked("a", "c", "b"), ranked("b", "a", "c")]  # a and c, b and a: 0.9 and 0.6; the third has 0.3
    assert made.measure(answers, several) == {"micro_f1": pytest.approx(2 * 1 / (4 + 3))}

    numbers = [{"text": "x", "label": 0.5}, {"text": "y", "label": 2}]
    made = task(TextClassification, reader(folder), numbers)
    answers = [[{"label": "LABEL_0", "score": score}] for score in (1.5, 4.0)]
    assert made.measure(answers, numbers) == {"mean_squared_error": pytest.approx((1 + 4) / 2)}


def test_measures_of_tags_by_hand(folder):
    def tags(*names: str) -> list[dict[str, Any]]:
        return [{"entity": name} for name in names]

    made = task(TokenClassification, reader(folder), TAGGED)
    answers = [tags("O", "B-ANIMAL", "I-ANIMAL"), tags("O", "I-ANIMAL")]  # one ends wrong, one is right
    figures = made.measure(answers, TAGGED)
    assert figures == {"accuracy": pytest.approx(4 / 5), "entity_f1": pytest.approx(2 * 1 / (2 + 2))}
    plain = [{"tokens": ["the", "cat"], "ner_tags": ["DET", "NOUN"]}]
    made = task(TokenClassification, reader(folder), plain)
    assert made.measure([tags("DET", "DET")], plain) == {"accuracy": 0.5}  # nothing there is an entity


def test_measures_of_answers_by_hand(folder):
    def says(answer: str, no_answer: float = 0.0) -> dict[str, Any]:
        return {"answer": answer, "score": 0.5, "no_answer": no_answer}

    made = task(QuestionAnswering, reader(folder), ASKED)
    answers = [says("dog"), says("the mat", 0.6), says("cat", 0.6)]  # right, not given, rightly not given
    assert made.measure(answers, ASKED) == {"exact_match": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}
    answers = [says("dog sat", 0.9), says("the mat", 0.6)]  # where all have an answer, one is given
    assert made.measure(answers, ASKED[:2]) == {"exact_match": 0.5, "f1": pytest.approx((2 / 3 + 1) / 2)}


def test_evaluation_measures_predictions_of_what_was_held_out(folder):
    made = task(TextClassification, reader(folder), TEXTS, held_out=placed(TEXTS[:2]))
    model = random_model(made.config, 1, kind=made.model)
    figures = made.measure(made.predict(model, placed(TEXTS[:2])), TEXTS[:2])
    assert made.evaluate(model, TrainingSettings(batch_size=1)) == {"validation_accuracy": figures["accuracy"]}
    assert task(TextClassification, reader(folder), TEXTS).evaluate(model, TrainingSettings()) == {}


# --- What is wrong is said, with its place ---

WRONG = [
    (TextClassification, {"text": "", "label": "en"}, "text is '', expected a text, not empty"),
    (TextClassification, {"text": None, "label": "en"}, "text is None, expected a text"),
    (TextClassification, {"text": "x"}, "has no field 'label'. Its fields are 'text'"),
    (TextClassification, {"label": "en"}, "has no field 'text'"),
    (TextClassification, "x", "is 'x', expected an object with a field"),
    (TextClassification, {"text": "x", "label": None}, "the label is None"),
    (TokenClassification, {"tokens": ["a", "b"], "ner_tags": ["O"]}, "there are 2 words and 1 tags, expected one"),
    (TokenClassification, {"tokens": ["a"], "ner_tags": "O"}, "there are 1 words and 'O' tags"),
    (TokenClassification, {"tokens": ["a", ""], "ner_tags": ["O", "O"]}, "word 2 is '', which has no token"),
    (TokenClassification, {"tokens": [], "ner_tags": []}, r"tokens is \[\], expected a list of words"),
    (TokenClassification, {"tokens": "a b", "ner_tags": ["O", "O"]}, "tokens is 'a b', expected a list of words"),
    (QuestionAnswering, ASKED[0] | {"context": ""}, "context is ''"),
    (QuestionAnswering, ASKED[0] | {"question": "who? " * 9}, "the question has .* tokens, too many to leave room"),
    (QuestionAnswering, ASKED[0] | {"answers": {"text": ["cat"], "answer_start": [0]}}, "'cat' is not at 0"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "example", "message"), WRONG)
def test_an_example_that_cannot_be_used_is_named(folder, kind, example, message):
    good = {TextClassification: TEXTS, TokenClassification: TAGGED, QuestionAnswering: ASKED}[kind]
    tokenizer = reader(folder, limit=24)
    with pytest.raises(InputError, match=rf"^examples\[{len(good)}\].*{message}"):
        task(kind, tokenizer, [*good, example])
    with pytest.raises(InputError, match=rf"^examples\[1\].*({message}|is unknown)"):
        task(kind, tokenizer, good, held_out=placed([good[0], example]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, "a"], r"examples\[1\]: the label is 'a', expected a number, as other examples have one"),
        ([0.5, float("nan")], r"examples\[1\]: the label is nan, expected a number"),
        ([0.5, 10**400], r"examples\[1\]: the label is 1000.*000, expected a number"),  # more than a float holds
        ([["a"], "a"], r"examples\[1\]: the label is 'a', expected a list of names"),
        (["a", 1], r"examples\[1\]: the label is 1, while those before are names"),
    ],
)
def test_labels_of_two_kinds_are_refused(folder, labels, message):
    with pytest.raises(InputError, match=message):
        task(TextClassification, reader(folder), [{"text": "x", "label": label} for label in labels])


def test_numbers_of_a_file_without_decimal_ones_are_measured_where_numbers_are_learnt(folder, tmp_path):
    """CSV says no types: what is whole in all of a file could as well be names."""
    (tmp_path / "whole.csv").write_text("text,label\nthe cat,3\nel gato,4\n")
    examples = placed([{"text": "x", "label": 0.5}, {"text": "y", "label": 2}])
    held_out = read_examples(tmp_path / "whole.csv")
    made = task(TextClassification, reader(folder), [*examples.values()], held_out=held_out)
    answers = [[{"label": "LABEL_0", "score": score}] for score in (1.0, -1.0)]
    assert made.measure(answers, [*held_out.values()]) == {"mean_squared_error": pytest.approx((4 + 25) / 2)}
    goes_on = TextClassification(reader(folder), made.config, held_out)
    assert [row["labels"] for row in goes_on.rows] == [3.0, 4.0]


def test_a_label_that_is_only_held_out_is_unknown(folder):
    with pytest.raises(InputError, match=r"examples\[0\]: the label 'es' is unknown. Known are en, fr, zh"):
        task(TextClassification, reader(folder), TEXTS, held_out=placed([{"text": "el gato", "label": "es"}]))


def test_tokenizers_that_cannot_serve_are_refused(folder):
    with pytest.raises(InputError, match="is_split_into_words=True needs a tokenizer made with add_prefix_space=True"):
        task(TokenClassification, BloomTokenizerFast.from_pretrained(folder), TAGGED)
    tokenizer = reader(folder)
    tokenizer.pad_token = None
    with pytest.raises(InputError, match="needs a padding token"):
        task(TextClassification, tokenizer, TEXTS)


def test_a_problem_that_the_labels_contradict_is_refused():
    known = BloomConfig(problem_type="multi_label_classification")
    with pytest.raises(InputError, match="config.problem_type is 'multi_label_classification', but the labels are for"):
        TextClassification.config_for(placed(TEXTS), known)
    numbers = BloomConfig(problem_type="regression", num_labels=1)
    examples = placed([{"text": "x", "label": 3}, {"text": "y", "label": 4}])
    assert TextClassification.config_for(examples, numbers)["problem_type"] == "regression"  # where it was said
    assert TextClassification.config_for(examples, BloomConfig())["problem_type"] == "single_label_classification"
