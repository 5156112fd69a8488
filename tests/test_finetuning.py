"""Fine-tuning: every head learns, a stopped run goes on bit for bit, and what was learnt is there in a new process."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibloom import (
    BloomForCausalLM,
    BloomForQuestionAnswering,
    BloomForSequenceClassification,
    BloomForTokenClassification,
    BloomTokenizerFast,
    finetune,
    predict,
)
from minibloom.errors import InputError
from minibloom.finetuning import finetune_file, load_finetuned
from minibloom.quantize import quantize
from minibloom.settings import TrainingSettings
from minibloom.training_state import STATE

from . import tiny
from .runs import assert_same_run, kill_when_saved, saved, stderr_until, stop_at, write

pytestmark = pytest.mark.filterwarnings("ignore:.*is new, drawn from seed")  # which is what is wanted here

WORDS = {
    "en": "the all human beings are born free and equal in dignity rights everyone has right to life of person",
    "fr": "tous les êtres humains naissent libres et égaux en dignité droits chaque individu a droit à la vie",
    "es": "todos los seres humanos nacen libres e iguales en dignidad derechos todo individuo tiene derecho a la vida",
}
PEOPLE, PLACES = ["Ana", "Omar", "Lena", "Ivan", "Mei", "Sara"], ["Lima", "Oslo", "Cairo", "Delhi", "New York", "Rome"]


def in_a_language(rng: random.Random) -> dict[str, Any]:
    """A few words of one language, in any order."""
    name = rng.choice(list(WORDS))
    return {"text": " ".join(rng.choices(WORDS[name].split(), k=rng.randint(5, 9))), "label": name}


def with_names(rng: random.Random) -> dict[str, Any]:
    """A sentence that tells where somebody lives."""
    person, place = rng.choice(PEOPLE), rng.choice(PLACES).split()
    words = [
        *rng.choice(["the right of", "we met", "and"]).split(),
        person,
        *rng.choice(["lives in", "is free in"]).split(),
    ]
    tags = ["O"] * len(words) + ["B-LOC", "I-LOC"][: len(place)]
    tags[words.index(person)] = "B-PER"
    return {"tokens": words + place, "ner_tags": tags}


def who_or_where(rng: random.Random) -> dict[str, Any]:
    """A question about such a sentence: its person, or its place."""
    person, place = rng.choice(PEOPLE), rng.choice(PLACES)
    context = f"{rng.choice(['The right of', 'We met', 'And'])} {person}, who lives in {place}."
    question, answer = rng.choice([("Who?", person), ("Where?", place)])
    return {
        "question": question,
        "context": context,
        "answers": {"text": [answer], "answer_start": [context.index(f" {answer}") + 1]},
    }


KINDS: dict[str, tuple[type, Callable[[random.Random], dict[str, Any]]]] = {
    "text-classification": (BloomForSequenceClassification, in_a_language),
    "token-classification": (BloomForTokenClassification, with_names),
    "question-answering": (BloomForQuestionAnswering, who_or_where),
}
LABELS = {"text-classification": {"num_labels": 3}, "token-classification": {"num_labels": 4}, "question-answering": {}}


def examples_of(task: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [KINDS[task][1](rng) for _ in range(count)]


def tokenizer_for(task: str, folder: Path | None = None) -> BloomTokenizerFast:
    return BloomTokenizerFast.from_pretrained(folder, add_prefix_space=task == "token-classification")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model to start from."""
    return tiny.checkpoint(tmp_path_factory.mktemp("base"))


SMALL = {"steps": 7, "batch_size": 3, "warmup_steps": 2, "save_every": 3, "seed": 5, "context_length": 48}


def small_run(base: Path, out: Path, task: str, **options: Any) -> tuple[Any, list[dict[str, float]]]:
    """A short quiet run on the tiny model, whose dropout draws numbers; returns the model, and the history."""
    model = KINDS[task][0].from_pretrained(base, hidden_dropout=0.1, **LABELS[task])
    options = {"examples": examples_of(task, 10), "validation": examples_of(task, 4, 1), "progress": False} | options
    return model, finetune(model, tokenizer_for(task, base), out=out, **SMALL | options)


# --- Every head learns ---


@pytest.mark.parametrize("task", KINDS)
def test_three_lines_fine_tune_the_shipped_model_to_answer_what_it_has_not_seen(task, tmp_path):
    tokenizer = tokenizer_for(task)
    model = KINDS[task][0].from_pretrained(**LABELS[task])
    history = finetune(
        model, tokenizer, examples_of(task, 200), tmp_path, validation=examples_of(task, 50, 1), progress=False,
        steps=24, batch_size=8, warmup_steps=4,
    )  # fmt: skip
    figures = {name: value for name, value in history[-1].items() if name.startswith("validation_")}
    names = {"text-classification": {"accuracy"}, "token-classification": {"accuracy", "entity_f1"}}
    assert figures.keys() == {f"validation_{name}" for name in names.get(task, {"exact_match", "f1"})}
    assert min(figures.values()) >= 0.9, figures
    if task == "text-classification":
        best = predict(model, tokenizer, "libres et égaux en dignité")[0]
        assert (best["label"], best["score"] > 0.5) == ("fr", True)
    elif task == "token-classification":
        tags = predict(model, tokenizer, "we met Lena is free in New York")
        assert [one["entity"] for one in tags] == ["O", "O", "B-PER", "O", "O", "O", "B-LOC", "I-LOC"]
    else:
        asked = {"question": "Where?", "context": "We met Omar, who lives in Cairo."}
        answer = predict(model, tokenizer, asked)
        assert (answer["answer"], answer["start"], answer["end"]) == ("Cairo", 26, 31)


@pytest.mark.parametrize(
    ("labels", "measure"),
    [
        (lambda cat, dog: 1.5 if cat else -0.5, "mean_squared_error"),
        (lambda cat, dog: ["cat"] * cat + ["dog"] * dog, "micro_f1"),
    ],
)
def test_numbers_and_several_labels_are_learnt(base, tmp_path, labels, measure):
    rng, examples = random.Random(0), []
    for _ in range(60):
        cat, dog = rng.random() < 0.5, rng.random() < 0.5
        words = ["the", "mat", "on", *["cat"] * cat, *["dog"] * dog]
        rng.shuffle(words)
        examples.append({"text": " ".join(words), "label": labels(cat, dog)})
    several = measure == "micro_f1"
    model = BloomForSequenceClassification.from_pretrained(base, num_labels=2 if several else 1)
    tokenizer = tokenizer_for("text-classification", base)
    history = finetune(
        model, tokenizer, examples, tmp_path, validation=0.25, progress=False, steps=60, learning_rate=0.01
    )
    figure = history[-1][f"validation_{measure}"]
    assert figure > 0.95 if several else figure < 0.1, history[-1]
    read = predict(model, tokenizer, ["the cat on", "the mat on"])
    if several:
        assert {one["label"] for one in read[0] if one["score"] > 0.5} == {"cat"}
    else:
        assert [round(answer[0]["score"]) for answer in read] in ([1, 0], [2, 0], [1, -1], [2, -1])
        assert read[0][0]["score"] == pytest.approx(1.5, abs=0.5)


def test_a_head_is_learnt_on_what_was_quantized(base, tmp_path):
    examples = examples_of("text-classification", 10)
    path = write(tmp_path, {"data.jsonl": "\n".join(map(json.dumps, examples)).encode()}) / "data.jsonl"
    quantize(base, tmp_path / "int8")
    s = TrainingSettings(**SMALL | {"steps": 1})
    finetune_file(path, "text-classification", tmp_path / "out", s, start_from=tmp_path / "int8", progress=False)
    assert load_finetuned(tmp_path / "out")[0].weights == "float32"


def test_a_head_that_learnt_names_goes_on_with_them(base, tmp_path):
    examples = examples_of("text-classification", 10)
    path = write(tmp_path, {"data.jsonl": "\n".join(map(json.dumps, examples)).encode()}) / "data.jsonl"
    s = TrainingSettings(**SMALL | {"steps": 2, "learning_rate": 1e-300})
    finetune_file(path, "text-classification", tmp_path / "one", s, start_from=base, progress=False)
    fewer = [one for one in examples if one["label"] != "en"]
    path.write_text("\n".join(map(json.dumps, fewer)))
    finetune_file(path, "text-classification", tmp_path / "two", s, start_from=tmp_path / "one", progress=False)
    one, two = (load_finetuned(tmp_path / name)[0] for name in ("one", "two"))
    assert two.config.id2label == one.config.id2label == {0: "en", 1: "es", 2: "fr"}
    numpy.testing.assert_array_equal(one.params["score.weight"], two.params["score.weight"])  # the same head
    heads = []
    for seed in (0, 1):
        s = TrainingSettings(**SMALL | {"steps": 1, "learning_rate": 1e-300, "seed": seed})
        finetune_file(path, "text-classification", tmp_path / f"{seed}", s, start_from=base, progress=False)
        heads.append(load_finetuned(tmp_path / f"{seed}")[0])
    assert heads[0].config.id2label == {0: "es", 1: "fr"}  # a new head has the names that are there
    assert not numpy.array_equal(heads[0].params["score.weight"], heads[1].params["score.weight"])
    path.write_text("\n".join(map(json.dumps, [*examples, {"text": "il gatto", "label": "it"}])))
    message = r"need 4 labels \(en, es, fr, it\), the head of .*one has 3 labels \(en, es, fr\): start from a"
    with pytest.raises(InputError, match=message):
        finetune_file(path, "text-classification", tmp_path / "more", s, start_from=tmp_path / "one", progress=False)


# --- Stopped, and resumed ---


@given(stop=st.integers(1, 7), save_every=st.integers(1, 8), task=st.sampled_from(list(KINDS)))
@settings(max_examples=6)
def test_a_run_that_is_stopped_and_resumed_is_the_same_bit_for_bit(base, tmp_path_factory, stop, save_every, task):
    folder = tmp_path_factory.mktemp("runs")
    whole = small_run(base, folder / "whole", task, save_every=save_every)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, stop)
        _, history = small_run(base, folder / "stopped", task, save_every=save_every)
    assert len(history) == stop
    assert_same_run(small_run(base, folder / "stopped", task, save_every=save_every, resume=True), whole)
    assert saved(folder / "stopped") == saved(folder / "whole")
    stopped, other = (tiny.contents(folder / name) for name in ("stopped", "whole"))
    assert stopped.pop(STATE) and other.pop(STATE)  # whose notes safetensors writes in any order
    assert stopped == other


@pytest.mark.parametrize("task", KINDS)
def test_other_examples_settings_or_labels_are_refused(base, tmp_path, task):
    small_run(base, tmp_path, task)
    before = tiny.contents(tmp_path)
    examples = examples_of(task, 10)
    relabelled = [dict(one) for one in examples]
    label = {"text-classification": "label", "token-classification": "ner_tags", "question-answering": "answers"}[task]
    other = next(one for one in examples if one[label] != examples[0][label])
    relabelled[0] = dict(other)
    for change, message in [
        ({"examples": relabelled}, r"text \(was \w+, now \w+\)"),
        ({"learning_rate": 0.1}, "learning_rate was 0.001, now 0.1"),
        ({"resume": False}, "already holds a training run"),
    ]:
        with pytest.raises(InputError, match=message):
            small_run(base, tmp_path, task, **{"resume": True} | change)
    assert tiny.contents(tmp_path) == before


STEPS = 150


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [json.dumps(one, ensure_ascii=False) for one in examples_of("text-classification", 40)]
    return write(tmp_path_factory.mktemp("data"), {"data.jsonl": "\n".join(lines).encode()}) / "data.jsonl"


@pytest.fixture(scope="module")
def command(base: Path, data: Path) -> list[Any]:
    """`minibloom train --task ...`, without where to."""
    options = ["--start-from", base, "--dropout", 0.1, "--steps", STEPS, "--batch-size", 4, "--validation", 0.2]
    return ["train", data, "--task", "text-classification", *options]


@pytest.fixture(scope="module")
def uninterrupted(command: list[Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    status, out, err = tiny.run(*command, "--save-every", STEPS, "--out", folder)
    assert status == 0, err
    assert f"saved at step {STEPS} of {STEPS}, loss " in out and ", validation accuracy " in out
    return saved(folder)


def test_ctrl_c_saves_and_the_resumed_process_is_the_same_bit_for_bit(command, uninterrupted, start, tmp_path):
    command = [*command, "--save-every", STEPS, "--out", tmp_path / "out"]
    process = start(*command)
    stderr_until(process, f"step 0/{STEPS}".encode())
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130 and b"The same command with --resume goes on." in err
    assert 1 <= saved(tmp_path / "out")["step"] < STEPS
    status, _, err = tiny.run(*command, "--resume")
    assert status == 0, err
    assert saved(tmp_path / "out") == uninterrupted


def test_a_killed_process_goes_on_from_its_last_save_bit_for_bit(command, uninterrupted, start, tmp_path):
    command = [*command, "--out", tmp_path / "out"]
    process = start(*command, "--save-every", 4)
    kill_when_saved(process, tmp_path / "out")
    load_finetuned(tmp_path / "out")  # whole, whenever the kill came
    assert 4 <= saved(tmp_path / "out")["step"] < STEPS
    status, _, err = tiny.run(*command, "--save-every", STEPS, "--resume")
    assert status == 0, err
    resumed = saved(tmp_path / "out")
    for record in resumed["history"][:-1]:
        record.pop("validation_accuracy", None)  # measured at each save
    assert resumed == uninterrupted


# --- What was learnt, in a new process and in place ---


@pytest.mark.parametrize("task", KINDS)
def test_predictions_are_the_same_in_a_new_process(base, tmp_path, task):
    model, _ = small_run(base, tmp_path, task, learning_rate=0.01, steps=12)
    asked = examples_of(task, 1, 2)[0]
    question = ["--question", asked["question"]] if task == "question-answering" else []
    text = asked.get("text") or asked.get("context") or " ".join(asked["tokens"])
    given = {"question": asked["question"], "context": text} if question else text
    status, out, err = tiny.run("predict", "--model", tmp_path, text, *question, "--json")
    assert (status, err) == (0, "")
    loaded, tokenizer = load_finetuned(tmp_path)
    assert type(loaded) is type(model) and loaded.config == model.config.replace(**vars_of_saving(model))
    assert json.loads(out) == predict(loaded, tokenizer, given) == predict(model, tokenizer, given)


def vars_of_saving(model: Any) -> dict[str, Any]:
    return {"architectures": [type(model).__name__], "dtype": "float32"}


def test_what_fine_tuning_sets_makes_predictions_as_evaluation_read_them(base, tmp_path):
    tokenizer, examples = tokenizer_for("text-classification", base), examples_of("text-classification", 10)
    model = BloomForSequenceClassification.from_pretrained(base, num_labels=3, pad_token_id=None)
    config, before = model.config, model.config.to_dict()
    short = SMALL | {"context_length": 6}
    history = finetune(model, tokenizer, examples, tmp_path / "one", progress=False, **short)
    longer = [one | {"text": one["text"] + " le chien dort dans le jardin"} for one in examples]  # behind the cut
    again = BloomForSequenceClassification.from_pretrained(base, num_labels=3)
    other = tokenizer_for("text-classification", base)
    assert finetune(again, other, longer, tmp_path / "two", progress=False, **short) == history
    assert config.to_dict() == before  # the caller's own is as it was
    assert model.config.pad_token_id == 3 and tokenizer.model_max_length == 6
    assert model.config.id2label == {0: "en", 1: "es", 2: "fr"}
    assert model.config.label2id == {"en": 0, "es": 1, "fr": 2}
    assert model.config.problem_type == "single_label_classification"
    text = "le chat dort sur le toit"
    assert predict(model, tokenizer, text) == predict(model, tokenizer, text + " et le chien dort")
    loaded, its_tokenizer = load_finetuned(tmp_path / "one")
    assert its_tokenizer.model_max_length == 6
    assert predict(loaded, its_tokenizer, [text, "猫"]) == predict(model, tokenizer, [text, "猫"])


def test_examples_may_come_from_files_lists_and_anything_that_can_be_iterated(base, tmp_path, data):
    task, examples = "text-classification", examples_of("text-classification", 40)
    histories = [
        small_run(base, tmp_path / str(i), task, examples=given, validation=0.2)[1]
        for i, given in enumerate([data, str(data), examples, tuple(examples), iter(examples)])
    ]
    assert all(history == histories[0] for history in histories)
    assert "validation_accuracy" in histories[0][-1]


# --- What is wrong is said before anything is done ---

WRONG = [
    ({"examples": []}, "examples is empty"),
    ({"examples": {"text": ["x"]}}, "examples is of type dict, expected a list of examples, or a file's path"),
    ({"examples": 5}, "examples is of type int"),
    ({"examples": "absent.jsonl"}, "absent.jsonl cannot be read"),
    ({"validation": []}, "validation is empty"),
    ({"validation": 1.5}, "validation is 1.5, expected a share of the 10 examples"),
    ({"validation": [{"text": "x", "label": "zh"}]}, r"validation\[0\]: the label 'zh' is unknown. Known are en, es"),
    ({"examples": [{"text": "x", "label": "a"}, {"text": "x", "label": "b"}]}, r"need 2 labels \(a, b\), the model"),
    ({"examples": [{"text": "x", "label": i} for i in (0, 5000)]}, r"need 5001 labels \(LABEL_0, .{,190} \.{3}\), "),
    ({"examples": [{"text": "x", "label": 0.5}]}, r"need 1 labels \(LABEL_0\), .* num_labels=1\)"),
    ({"examples": [{"text": "x", "label": 2}, {"text": "", "label": 0}]}, r"examples\[1\]: text is ''"),
    ({"learning_rat": 0.1}, "there is no setting 'learning_rat'.*Did you mean 'learning_rate'"),
    ({"steps": 0}, "steps is 0"),
    ({"resume": True}, "holds no training run to resume"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_cannot_be_learnt_from_is_said_before_anything_is_done(base, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("minibloom.finetuning.train", lambda *_: pytest.fail("it went on"))
    tokenizer, examples = tokenizer_for("text-classification", base), examples_of("text-classification", 10)
    model = BloomForSequenceClassification.from_pretrained(base, num_labels=3)
    before = model.config
    with pytest.raises(InputError, match=message):
        finetune(model, tokenizer, **{"examples": examples, "out": tmp_path / "out"} | options)
    assert model.config is before and tokenizer.model_max_length > 10**9
    assert not (tmp_path / "out").exists()


def test_models_and_tokenizers_that_do_not_fit_are_refused(base, tmp_path):
    tokenizer, examples = tokenizer_for("text-classification", base), examples_of("text-classification", 10)
    with pytest.raises(InputError, match="model is a BloomForCausalLM, expected one of BloomForSequenceClassification"):
        finetune(BloomForCausalLM.from_pretrained(base), tokenizer, examples, tmp_path / "out")
    model = BloomForSequenceClassification(tiny.config(vocab_size=50, num_labels=3))
    with pytest.raises(InputError, match="expected ids from 0 to 49. Does the tokenizer belong to this model"):
        finetune(model, tokenizer, examples, tmp_path / "out")
    with pytest.raises(InputError, match="was saved as BloomForCausalLM, expected one of"):
        load_finetuned(base)
    with pytest.raises(InputError, match="task is 'tagging', expected one of text-classification, "):
        finetune_file(tmp_path, "tagging", tmp_path / "out", TrainingSettings())
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_that_blows_up_keeps_what_was_saved(base, tmp_path):
    with pytest.raises(InputError, match=r"no longer finite .*saved at step \d+ stands.*smaller learning rate"):
        small_run(base, tmp_path, "question-answering", learning_rate=1e30, save_every=1, steps=50)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("", "the input: text is ''"),
        (["x", ""], r"inputs\[1\]: text is ''"),
        ([3], r"inputs\[0\] is 3, expected an object with a field 'text'"),
        (None, "inputs is of type NoneType, expected an input, or a list of them"),
    ],
)
def test_an_input_that_cannot_be_answered_is_named(base, inputs, message):
    model = BloomForSequenceClassification.from_pretrained(base)
    with pytest.raises(InputError, match=message):
        predict(model, tokenizer_for("text-classification", base), inputs)
    with pytest.raises(InputError, match="batch_size is 0, expected a whole number from 1"):
        predict(model, tokenizer_for("text-classification", base), "a", batch_size=0)
    assert predict(model, tokenizer_for("text-classification", base), []) == []
