"""The loop: what it learns, and a run that was stopped, or killed, against one that was not."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibloom import (
    BloomConfig,
    BloomForCausalLM,
    BloomForQuestionAnswering,
    BloomForSequenceClassification,
    BloomForTokenClassification,
    BloomModel,
    BloomTokenizerFast,
)
from minibloom.errors import InputError
from minibloom.language_modeling import LanguageModeling, tokenize
from minibloom.settings import TrainingSettings
from minibloom.training import Batches, gradients, train
from minibloom.training_state import STATE

from . import tiny
from .runs import assert_same_run, kill_when_saved, saved, stderr_until, stop_at, write

# --- The loop ---

SMALL = TrainingSettings(
    steps=7, batch_size=2, context_length=8, learning_rate=0.01, warmup_steps=2, save_every=3, seed=5
)
DOCUMENTS = [numpy.random.default_rng(n).integers(4, 60, n).astype("int32") for n in (29, 31, 33, 35)]  # 128 in all


def small_model(dropout: float = 0.0, dtype: str = "float32") -> BloomForCausalLM:
    config = BloomConfig(
        vocab_size=60, hidden_size=8, n_layer=2, n_head=2, hidden_dropout=dropout, attention_dropout=dropout
    )
    return BloomForCausalLM(config, dtype=dtype)


def run(folder: Path, s: TrainingSettings = SMALL, **options: Any) -> tuple[BloomForCausalLM, list[dict[str, float]]]:
    """A quiet run of the small model; returns the model, trained, and the history."""
    model = options.pop("model", None) or small_model(options.pop("dropout", 0.0), options.pop("dtype", "float32"))
    task = LanguageModeling(options.pop("documents", DOCUMENTS), options.pop("validation", []))
    return model, train(model, task, s, folder, progress=False, **options)


def test_two_half_batches_are_one_whole_batch(tmp_path):
    halves = dataclasses.replace(SMALL, batch_size=2, accumulation=2)
    whole = dataclasses.replace(SMALL, batch_size=4, accumulation=1)
    (a, first), (b, second) = (
        run(tmp_path / str(s.batch_size), s, dtype="float64", validation=DOCUMENTS[:1]) for s in (halves, whole)
    )
    for name in a.params:
        numpy.testing.assert_allclose(a.params[name], b.params[name], rtol=0, atol=1e-8, err_msg=name)
    for x, y in zip(first, second, strict=True):
        assert x == pytest.approx(y, rel=1e-8)


IGNORED = -100
KEPT = numpy.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], *[[0] * 6] * 2])
PLACES = numpy.array([0, 5, 6, 2, 9, 7])  # those from 6 on lie past the sequence
MANY = {"num_labels": 3, "problem_type": "multi_label_classification"}
ROW_LABELS = numpy.array([0, 2, IGNORED, 1, IGNORED, IGNORED])


@pytest.mark.parametrize("cuts", [[2, 4], [1, 2], [4], [1, 2, 3, 4, 5]])
@pytest.mark.parametrize(
    ("kind", "labels", "changes"),
    [
        (BloomForCausalLM, lambda ids: {"labels": numpy.where(KEPT, ids, IGNORED)}, {}),
        (BloomForCausalLM, lambda ids: {"labels": ids.astype("uint8")}, {}),
        (BloomForTokenClassification, lambda ids: {"labels": numpy.where(KEPT, ids % 3, IGNORED)}, {"num_labels": 3}),
        (BloomForSequenceClassification, lambda ids: {"labels": ROW_LABELS}, {"num_labels": 3}),
        (BloomForSequenceClassification, lambda ids: {"labels": 1.0 * ROW_LABELS}, {"num_labels": 1}),  # a number
        (BloomForSequenceClassification, lambda ids: {"labels": ids[:, :3] % 2}, MANY),
        (BloomForQuestionAnswering, lambda ids: {"start_positions": PLACES, "end_positions": PLACES}, {}),
    ],
)
def test_parts_with_unequal_labels_are_one_batch(kind, labels, changes, cuts):
    config = BloomConfig(vocab_size=60, hidden_size=8, n_layer=2, n_head=2, pad_token_id=0, **changes)
    model, ids = kind(config, dtype="float64"), numpy.random.default_rng(0).integers(1, 60, (6, 6))
    whole = {"input_ids": ids, **labels(ids)}
    columns = {name: numpy.split(column, cuts) for name, column in whole.items()}
    parts = [dict(zip(columns, part, strict=True)) for part in zip(*columns.values(), strict=True)]
    s = dataclasses.replace(SMALL, accumulation=len(parts))
    loss, grads, tokens = gradients(model, iter(parts), s, 0)
    out, expected = model.value_and_grad(**whole)
    assert loss == pytest.approx(float(out.loss), rel=1e-12) and tokens == ids.size
    for name, gradient in expected.items():
        numpy.testing.assert_allclose(grads[name], gradient, rtol=0, atol=1e-14 * (1 + abs(gradient).max()))


def test_parts_without_any_label_have_no_mean():
    model, nothing = small_model(), {"input_ids": [[1, 2]], "labels": [[5, IGNORED]]}  # which nothing stands before
    loss, grads, _ = gradients(model, iter([nothing] * 2), dataclasses.replace(SMALL, accumulation=2), 0)
    assert math.isnan(loss) and not any(gradient.any() for gradient in grads.values())


def test_a_model_whose_calls_return_tuples_is_trained_and_measured_alike(tmp_path):
    model = small_model()
    model.config = model.config.replace(return_dict=False)
    _, history = run(tmp_path / "tuples", model=model, validation=DOCUMENTS[:1])
    assert history == run(tmp_path / "objects", validation=DOCUMENTS[:1])[1]


def test_the_loss_goes_down_and_the_checkpoint_remembers_the_text(tmp_path):
    tokenizer = tiny.tokenizer()
    documents = tokenize({"text": tiny.LINES[0]}, tokenizer)
    s = TrainingSettings(steps=100, batch_size=1, context_length=len(documents[0]), learning_rate=0.01, warmup_steps=5)
    model = BloomForCausalLM(tiny.config())
    history = train(model, LanguageModeling(documents), s, tmp_path, tokenizer, progress=False)
    assert [record["step"] for record in history] == list(range(1, 101))
    assert history[0]["loss"] == pytest.approx(math.log(384), rel=0.02)  # a new model knows nothing
    assert history[-1]["loss"] < 0.1
    loaded, reader = BloomForCausalLM.from_pretrained(tmp_path), BloomTokenizerFast.from_pretrained(tmp_path)
    ids = loaded.generate([reader("the cat")["input_ids"]], max_new_tokens=50)[0]
    assert reader.decode(ids, skip_special_tokens=True) == tiny.LINES[0]


def test_dropout_is_drawn_anew_in_each_pass_and_is_not_in_the_checkpoints_way(tmp_path):
    _, without = run(tmp_path / "without")
    _, history = run(tmp_path / "with", dropout=0.3)
    assert all(a["loss"] != b["loss"] for a, b in zip(without, history, strict=True))
    # One row, one pass each: were the same neurons dropped, or other numbers drawn by chance, losses would agree.
    model, row = small_model(0.3), DOCUMENTS[0][None, :8].astype("int64")
    seeds = [[SMALL.seed, 3, step, part] for step in range(2) for part in range(2)]
    losses = [float(model(row, labels=row, train=True, seed=seed).loss) for seed in seeds]
    assert len(set(losses)) == 4
    assert losses[0] == float(model(row, labels=row, train=True, seed=seeds[0]).loss)


@given(
    stop=st.integers(1, SMALL.steps),
    save_every=st.integers(1, 8),
    accumulation=st.integers(1, 2),
    dropout=st.sampled_from([0.0, 0.2]),
    dtype=st.sampled_from(["float32", "float64"]),
    validate=st.booleans(),
    recompute=st.booleans(),
)
@settings(max_examples=12)
def test_a_run_that_is_stopped_and_resumed_is_the_same_bit_for_bit(
    tmp_path_factory, stop, save_every, accumulation, dropout, dtype, validate, recompute
):
    folder = tmp_path_factory.mktemp("runs")
    s = dataclasses.replace(SMALL, save_every=save_every, accumulation=accumulation)
    options = {"dropout": dropout, "dtype": dtype, "validation": DOCUMENTS[:1] if validate else []}
    whole = run(folder / "whole", s, **options)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, stop)
        _, history = run(folder / "stopped", s, **options)
    assert len(history) == stop  # the step is finished, and nothing is begun after it
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    s = dataclasses.replace(s, recompute=recompute)  # which is no part of the result
    resumed = run(folder / "stopped", s, resume=True, **options)
    assert_same_run(resumed, whole)
    assert saved(folder / "stopped") == saved(folder / "whole")
    assert (
        tiny.contents(folder / "stopped")["model.safetensors"] == tiny.contents(folder / "whole")["model.safetensors"]
    )


def test_parameters_in_any_order_in_memory_resume_as_they_were(tmp_path, monkeypatch):
    """As those of a Flax model are that `bind` makes of kernels."""

    def transposed() -> BloomForCausalLM:
        model = small_model()
        model.params = {name: numpy.asfortranarray(p) for name, p in model.params.items()}
        return model

    whole = run(tmp_path / "whole", model=transposed())
    stop_at(monkeypatch, 2)
    run(tmp_path / "stopped", model=transposed())
    monkeypatch.undo()
    resumed = run(tmp_path / "stopped", model=transposed(), resume=True)
    assert_same_run(resumed, whole)
    for name, p in resumed[0].params.items():  # a product may differ in its last bit where an operand lies otherwise
        assert p.flags.f_contiguous, name


def test_what_is_inside_of_blocks_is_computed_again_where_that_is_asked_for(tmp_path, monkeypatch):
    asked, real = [], BloomForCausalLM.value_and_grad

    def watched(self, *args, **kwargs):
        asked.append(kwargs["recompute"])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(BloomForCausalLM, "value_and_grad", watched)
    for recompute in (False, True):
        run(tmp_path / str(recompute), dataclasses.replace(SMALL, recompute=recompute))
        assert set(asked) == {recompute}
        asked.clear()
    assert saved(tmp_path / "True")["history"] == saved(tmp_path / "False")["history"]


def test_a_second_ctrl_c_stops_at_once_and_what_was_saved_stands(tmp_path, monkeypatch):
    stop_at(monkeypatch, 5, presses=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert saved(tmp_path)["step"] == 3  # the last of every 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    whole = run(tmp_path / "whole")
    assert_same_run(run(tmp_path, resume=True), whole)


@pytest.mark.parametrize("files", range(9))  # three saves of three files
def test_a_save_that_breaks_off_leaves_the_one_before(tmp_path, monkeypatch, files):
    whole = run(tmp_path / "whole")
    left, real = iter(range(files)), os.replace

    def full(*paths: Any) -> None:
        if next(left, None) is None:
            raise OSError("no space left on device")
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no space left"):
            run(tmp_path / "run")
    there = (tmp_path / "run" / STATE).exists()
    assert there == (files >= 3)
    if files in (1, 2):  # a checkpoint without a state could be anyone's
        with pytest.raises(InputError, match="already holds a checkpoint"):
            run(tmp_path / "run")
        return
    assert_same_run(run(tmp_path / "run", resume=there), whole)
    assert tiny.contents(tmp_path / "run").keys() == tiny.contents(tmp_path / "whole").keys()


def test_a_finished_run_resumes_to_what_it_is(tmp_path):
    whole = run(tmp_path)
    before = tiny.contents(tmp_path)
    assert_same_run(run(tmp_path, resume=True), whole)
    assert tiny.contents(tmp_path) == before


def test_a_run_is_not_overwritten_unless_resumed_nor_resumed_where_there_is_none(tmp_path):
    run(tmp_path / "run")
    before = tiny.contents(tmp_path)
    with pytest.raises(InputError, match=r"run already holds a training run. Resume it with --resume"):
        run(tmp_path / "run")
    with pytest.raises(InputError, match="absent holds no training run to resume"):
        run(tmp_path / "absent", resume=True)
    assert tiny.contents(tmp_path) == before
    assert not (tmp_path / "absent").exists()


CHANGES = [
    ({"s": dataclasses.replace(SMALL, learning_rate=0.02)}, "learning_rate was 0.01, now 0.02"),
    ({"s": dataclasses.replace(SMALL, steps=8, seed=1)}, "steps was 7, now 8, seed was 5, now 1"),
    ({"dropout": 0.1}, "hidden_dropout was 0.0, now 0.1"),
    ({"dtype": "float64"}, "dtype .was float32, now float64"),
    ({"tokenizer": tiny.tokenizer()}, "tokenizer .was not given, now 300 tokens"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_what_changed_since_a_run_began_is_named(tmp_path, change, message):
    run(tmp_path)
    before = tiny.contents(tmp_path)
    with pytest.raises(InputError, match=message):
        run(tmp_path, resume=True, **change)
    assert tiny.contents(tmp_path) == before


def test_a_run_goes_on_with_the_model_that_it_saved_and_with_no_other_kind(tmp_path, monkeypatch):
    small_model().save_pretrained(tmp_path / "start", dtype="bfloat16")

    def loaded(folder: str) -> BloomForCausalLM:
        return BloomForCausalLM.from_pretrained(tmp_path / folder)

    whole = run(tmp_path / "whole", model=loaded("start"))
    stop_at(monkeypatch, 2)
    run(tmp_path / "run", model=loaded("start"))
    monkeypatch.undo()
    other = BloomForTokenClassification(loaded("start").config)
    with pytest.raises(InputError, match=r"architectures was \['BloomForCausalLM'\], now \['BloomForTokenCl"):
        run(tmp_path / "run", model=other, resume=True)
    assert_same_run(run(tmp_path / "run", model=loaded("run"), resume=True), whole)


def test_changed_text_is_noticed_and_how_often_to_save_may_change(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    stop_at(monkeypatch, 2)
    run(tmp_path / "run")
    changed = [*DOCUMENTS[:-1], DOCUMENTS[-1] ^ 1]
    with pytest.raises(InputError, match=r"text \(was \w+, now \w+\)"):
        run(tmp_path / "run", documents=changed, resume=True)
    s = dataclasses.replace(SMALL, save_every=1)
    assert_same_run(run(tmp_path / "run", s, resume=True), whole)


@pytest.mark.parametrize("length", [0, 100, -100])
def test_a_damaged_state_is_named(tmp_path, length):
    run(tmp_path)
    state = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(state[:length])
    with pytest.raises(InputError, match=f"{STATE} cannot be read"):
        run(tmp_path, resume=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_that_blows_up_stops_and_keeps_the_last_good_state(tmp_path):
    model = small_model()
    model.params["ln_f.weight"][:] = 1e30
    s = dataclasses.replace(SMALL, learning_rate=1e30, save_every=1)
    with pytest.raises(InputError, match=r"no longer finite .*saved at step \d+ stands.*smaller learning rate"):
        run(tmp_path, s, model=model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": BloomModel(tiny.config())}, "model is a BloomModel, expected one with a head"),
        ({"model": tiny.config()}, "model is a BloomConfig, expected one with a head"),
        ({"s": {"steps": 1}}, r"settings is a dict, expected TrainingSettings\(steps="),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_done(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_batches_of_ones_own_train_any_head_in_turn_and_resume(tmp_path, monkeypatch):
    rng = numpy.random.default_rng(0)
    batches = [
        {"input_ids": rng.integers(4, 60, (B, 5)), "labels": rng.integers(0, 2, (B, 5)).tolist()} for B in (2, 3, 1)
    ]

    def run_batches(folder: Path, **options: Any) -> tuple[Any, list[dict[str, float]]]:
        model = BloomForTokenClassification(small_model(0.2).config)
        task = Batches(options.pop("batches", batches), held_out=batches[:2])
        return model, train(model, task, SMALL, folder, progress=False, **options)

    model, history = whole = run_batches(tmp_path / "whole")
    losses = [float(model(**batch).loss) for batch in batches[:2]]
    assert history[-1]["validation_loss"] == pytest.approx(sum(losses) / 2)
    stop_at(monkeypatch, 4)
    run_batches(tmp_path / "run")
    monkeypatch.undo()
    for change in ({"batches": batches[::-1]}, {"batches": [{**batches[0], "labels": 1 - rng.integers(0, 2, (2, 5))}]}):
        with pytest.raises(InputError, match="text .was"):
            run_batches(tmp_path / "run", resume=True, **change)
    assert_same_run(run_batches(tmp_path / "run", resume=True), whole)
    with pytest.raises(InputError, match="batches is a generator, expected a list of dictionaries of arrays"):
        Batches(batch for batch in ())
    with pytest.raises(InputError, match=r"task is a list, expected a Task: Batches\(\[...\]\), Lang"):
        train(None, [{}], TrainingSettings(steps=1), tmp_path / "out")
    with pytest.raises(InputError, match="batches is empty"):
        Batches([])
    for wrong in (batches[0], iter(batches), [batches]):
        with pytest.raises(InputError, match="batches is a .*, expected a list of dictionaries of arrays"):
            Batches(wrong)
    with pytest.raises(InputError, match="held_out is a dict, expected a list of dictionaries"):
        Batches(batches, held_out=batches[0])


# --- The command ---


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("texts"), {f"{i}.txt": tiny.TEXT.encode() for i in range(2)})


STEPS = 200  # of a few milliseconds each: long enough to be caught in the middle
OPTIONS = [
    *("--vocab-size", 300, "--hidden-size", 32, "--n-layer", 2, "--n-head", 4, "--dropout", 0.1, "--warmup-steps", 10),
    *("--steps", STEPS, "--batch-size", 4, "--context-length", 64),
]


@pytest.fixture(scope="module")
def uninterrupted(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `minibloom train` leaves that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "out"
    status, out, err = tiny.run("train", texts, "--out", folder, *OPTIONS)
    assert (status, out) == (0, f"{folder}: saved at step {STEPS} of {STEPS}, loss {last_loss(folder):.3f}.\n"), err
    for shown in ("loss ", "tokens/s", "left", "not saved yet", "saved at step"):
        assert shown in err
    return folder


def last_loss(folder: Path) -> float:
    return saved(folder)["history"][-1]["loss"]


def test_ctrl_c_saves_and_the_resumed_run_is_the_same_bit_for_bit(texts, uninterrupted, start, tmp_path):
    command = ["train", texts, "--out", tmp_path / "out", *OPTIONS]  # saves every 250 steps: only because of Ctrl-C
    process = start(*command)
    stderr_until(process, f"step 0/{STEPS}".encode())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    stopped = saved(tmp_path / "out")["step"]
    assert process.returncode == 130
    assert 1 <= stopped < STEPS
    assert f"saved at step {stopped} of {STEPS}" in out.decode()
    assert b"stopping after this step" in err and b"The same command with --resume goes on." in err
    assert b"Traceback" not in err
    status, out, err = tiny.run(*command, "--resume")
    assert status == 0, err
    assert saved(tmp_path / "out") == saved(uninterrupted)
    assert tiny.contents(tmp_path / "out").keys() == tiny.contents(uninterrupted).keys()


def test_a_killed_run_goes_on_from_its_last_save_bit_for_bit(texts, uninterrupted, start, tmp_path):
    command = ["train", texts, "--out", tmp_path / "out", *OPTIONS, "--save-every", 4]
    process = start(*command)
    kill_when_saved(process, tmp_path / "out")
    stopped = saved(tmp_path / "out")["step"]
    assert 4 <= stopped < STEPS and stopped % 4 == 0
    BloomForCausalLM.from_pretrained(tmp_path / "out")  # whole, whenever the kill came
    status, _, err = tiny.run(*command, "--resume")
    assert status == 0, err
    assert saved(tmp_path / "out") == saved(uninterrupted)


@pytest.mark.parametrize("warmup", [1, 2, 3])
def test_a_warm_up_that_never_ends_is_noted(tmp_path, capsys, warmup):
    s = dataclasses.replace(SMALL, steps=2, warmup_steps=warmup)
    train(BloomForCausalLM(tiny.config()), LanguageModeling(DOCUMENTS), s, tmp_path)
    note = f"the learning rate rises for {warmup} steps, and never falls, as there are 2: lower warmup_steps.\n"
    assert (note in capsys.readouterr().err) == (warmup > 1)
