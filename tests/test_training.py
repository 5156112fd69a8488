"""Training: each part against its definition, and a run that was stopped, or killed, against one that was not."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from minibloom import BloomConfig, BloomForCausalLM, BloomTokenizerFast, training
from minibloom.errors import InputError
from minibloom.training import (
    STATE,
    AdamW,
    TrainingSettings,
    batches,
    clip_gradients,
    evaluate,
    learning_rate,
    read_documents,
    tokenize,
    train,
    train_folder,
)

from . import tiny
from .strategies import few, normal, seeds

rates = st.floats(0, 0.1)
betas = st.floats(0, 0.999)


# --- The optimiser ---


def gradients(seed: int, shapes: dict[str, tuple[int, ...]], steps: int) -> list[dict[str, numpy.ndarray]]:
    return [{name: normal(seed + i, *shape) for name, shape in shapes.items()} for i in range(1, steps + 1)]


def textbook_adamw(p: float, grads: list[float], rate: float, beta1: float, beta2: float, decay: float) -> float:
    """Algorithm 2 of Loshchilov & Hutter (2019) for one number, line by line."""
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        p = p - rate * (m_hat / (math.sqrt(v_hat) + 1e-8) + decay * p)
    return p


SHAPES = {"matrix": (2, 3), "vector": (4,)}


@given(seed=st.integers(0, 2**31), steps=st.integers(1, 5), rate=rates, beta1=betas, beta2=betas, decay=rates)
@few
def test_adamw_is_the_textbooks_and_decays_matrices_alone(seed, steps, rate, beta1, beta2, decay):
    params = {name: normal(seed, *shape) for name, shape in SHAPES.items()}
    start, grads = {name: p.copy() for name, p in params.items()}, gradients(seed, SHAPES, steps)
    optimizer = AdamW(params, beta1, beta2)
    for each in grads:
        optimizer.step(params, each, rate, decay)
    for name, p in params.items():
        for i in numpy.ndindex(p.shape):
            own_decay = decay if name == "matrix" else 0.0
            expected = textbook_adamw(start[name][i], [g[name][i] for g in grads], rate, beta1, beta2, own_decay)
            assert p[i] == pytest.approx(expected, rel=1e-10, abs=1e-12)


@given(seed=st.integers(0, 2**31), rate=rates, beta1=betas, beta2=betas, decay=rates)
@few
def test_adamw_is_torchs(seed, rate, beta1, beta2, decay):
    torch = pytest.importorskip("torch")
    params = {name: normal(seed, *shape) for name, shape in SHAPES.items()}
    theirs = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in params.items()}
    groups = [{"params": [theirs["matrix"]], "weight_decay": decay}, {"params": [theirs["vector"]], "weight_decay": 0}]
    reference, optimizer = torch.optim.AdamW(groups, lr=rate, betas=(beta1, beta2)), AdamW(params, beta1, beta2)
    for grads in gradients(seed, SHAPES, 5):
        optimizer.step(params, grads, rate, decay)
        for name, g in grads.items():
            theirs[name].grad = torch.tensor(g)
        reference.step()
    for name, p in params.items():
        numpy.testing.assert_allclose(p, theirs[name].detach().numpy(), rtol=1e-10, atol=1e-12)


@given(
    steps=st.integers(1, 60),
    warmup=st.integers(0, 80),
    peak=st.floats(1e-6, 1.0),
    final=st.floats(0, 1),
)
def test_the_rate_goes_up_a_line_and_down_a_cosine(steps, warmup, peak, final):
    s = TrainingSettings(steps=steps, warmup_steps=warmup, learning_rate=peak, final_rate=final)
    rates = [learning_rate(step, s) for step in range(steps)]
    up, down = rates[:warmup], rates[warmup:]
    assert up == pytest.approx([peak * (i + 1) / warmup for i in range(len(up))])  # never 0, the peak is its last
    assert all(a >= b for a, b in pairwise(down))
    if down:
        assert down[0] == pytest.approx(peak)
        assert learning_rate(steps, s) == pytest.approx(peak * final)  # where a further step would be
        for share, height in ((1 / 2, 1 / 2), (1 / 3, 3 / 4), (2 / 3, 1 / 4)):  # of the way; a line is at 2/3, 1/3
            step = warmup + share * (steps - warmup)
            assert learning_rate(step, s) == pytest.approx(peak * (final + (1 - final) * height))


@given(seed=seeds, limit=st.floats(1e-3, 10))
def test_clipping_keeps_the_direction_and_limits_the_norm_of_all_together(seed, limit):
    grads = {"a": normal(seed, 3, 2), "b": normal(seed + 1, 4)}
    before = numpy.concatenate([g.copy().ravel() for g in grads.values()])
    norm = clip_gradients(grads, limit)
    after = numpy.concatenate([g.ravel() for g in grads.values()])
    assert norm == pytest.approx(math.sqrt(math.fsum(before * before)))
    if norm <= limit:
        numpy.testing.assert_array_equal(after, before)
    else:
        numpy.testing.assert_allclose(after, before * (limit / norm), rtol=1e-12)


# --- The data ---


@st.composite
def numbered(draw: st.DrawFn) -> list[numpy.ndarray]:
    """Documents whose tokens are all different: 0, 1, 2, ... through all of them."""
    ends = numpy.cumsum(draw(st.lists(st.integers(1, 40), min_size=1, max_size=6)))
    return [numpy.arange(a, b) for a, b in zip([0, *ends], ends, strict=False)]


@given(
    documents=numbered(),
    width=st.integers(2, 9),
    size=st.integers(1, 4),
    seed=st.integers(0, 9),
    skip=st.integers(0, 30),
)
def test_an_epoch_reads_each_token_at_most_once_and_starts_anywhere(documents, width, size, seed, skip):
    s = TrainingSettings(context_length=width, batch_size=size, seed=seed)
    count = sum(map(len, documents))
    per_epoch = count // (width * size)
    assume(per_epoch)
    source = batches(documents, s)
    run = [next(source) for _ in range(skip + 2 * per_epoch)]
    for epoch in range(len(run) // per_epoch):
        tokens = numpy.concatenate(run[epoch * per_epoch : (epoch + 1) * per_epoch]).ravel()
        assert len(tokens) == len(set(tokens.tolist())) == per_epoch * size * width
    beginnings = {int(document[0]) for document in documents}
    for batch in run:
        assert batch.shape == (size, width)
        for row in batch.tolist():  # a piece of text: a document goes on to its end, and then another one begins
            assert all(b == a + 1 or (b in beginnings and a + 1 in {*beginnings, count}) for a, b in pairwise(row))
    later = batches(documents, s, skip)
    numpy.testing.assert_array_equal([next(later) for _ in range(per_epoch)], run[skip : skip + per_epoch])


@given(documents=numbered(), width=st.integers(2, 9), size=st.integers(1, 3), skip=st.integers(0, 12))
def test_whole_documents_each_begin_a_row_at_most_once_an_epoch(documents, width, size, skip):
    s = TrainingSettings(context_length=width, batch_size=size, whole_documents=True)
    count = sum(map(len, documents))
    assume(len(documents) >= size and count >= width)
    per_epoch = len(documents) // size
    source = batches(documents, s)
    run = [next(source) for _ in range(skip + 2 * per_epoch)]
    beginnings = {int(document[0]) for document in documents}
    for epoch in range(len(run) // per_epoch):
        rows = numpy.concatenate(run[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert rows.shape == (per_epoch * size, width)
        assert len(set(rows[:, 0].tolist())) == len(rows) and set(rows[:, 0].tolist()) <= beginnings
        for row in rows.tolist():  # the document goes on to its end, and then another one begins
            assert all(b == a + 1 or (b in beginnings and a + 1 in {*beginnings, count}) for a, b in pairwise(row))
    later = batches(documents, s, skip)
    numpy.testing.assert_array_equal([next(later) for _ in range(per_epoch)], run[skip : skip + per_epoch])


def test_epochs_and_seeds_differ_in_order():
    s = TrainingSettings(context_length=5, batch_size=40)
    one = [numpy.arange(200)]
    source = batches(one, s)
    first, second, other = next(source), next(source), next(batches(one, dataclasses.replace(s, seed=1)))
    assert not numpy.array_equal(first, second) and not numpy.array_equal(first, other)
    assert {tuple(row) for row in first.tolist()} == {tuple(row) for row in second.tolist()}  # rows change places
    # Documents are shuffled before they are joined: then what stands in the rows changes too.
    source = batches([numpy.arange(50 * i, 50 * i + 47 + i) for i in range(4)], dataclasses.replace(s, batch_size=38))
    epochs = [{tuple(row) for row in next(source).tolist()} for _ in range(4)]
    assert any(epoch != epochs[0] for epoch in epochs)


def test_too_little_text_is_said_at_the_call():
    for options in ({}, {"whole_documents": True}):
        with pytest.raises(InputError, match="the text has 19 tokens .* too few for one batch of 2 rows of 10"):
            batches([numpy.arange(19)], TrainingSettings(batch_size=2, context_length=10, **options))


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_documents_are_the_text_files_of_a_folder_in_order_of_path(tmp_path):
    files = {
        "b.txt": b"second",
        "a/z.txt": "日本".encode(),
        "a/mark.txt": b"\xef\xbb\xbfmarked",  # as some editors begin a file
        "empty.txt": b" \n",
        ".hidden": b"\xff",
        ".git/x": b"\xff",
    }
    assert list(read_documents(write(tmp_path, files)).items()) == [
        ("a/mark.txt", "marked"),
        ("a/z.txt", "日本"),
        ("b.txt", "second"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/b.txt": b"fine", "a/c.bin": b"ab\xff"}, r"c\.bin is not UTF-8 text \(byte 2\)"),
        ({".hidden": b"text", "empty": b""}, "holds no text"),
        (None, "is no folder"),
    ],
)
def test_a_folder_without_text_is_refused(tmp_path, files, message):
    folder = tmp_path / "absent" if files is None else write(tmp_path, files)
    with pytest.raises(InputError, match=message) as error:
        read_documents(folder)
    assert str(folder) in str(error.value)


def test_each_document_ends_with_the_end_token():
    tokenizer = tiny.tokenizer()
    ids = tokenize({"one": "the cat", "two": "el"}, tokenizer)
    assert [row[-1] for row in ids] == [tokenizer.eos_token_id] * 2
    assert [tokenizer.decode(row[:-1]) for row in ids] == ["the cat", "el"]


class Recorder:
    """Stands for a model whose loss is 1 for every token, and notes what it was asked to predict."""

    xp = numpy

    def __init__(self) -> None:
        self.predicted: list[int] = []

    def __call__(self, window: numpy.ndarray, labels: numpy.ndarray, use_cache: bool) -> Any:
        assert window is labels and len(window) == 1
        self.predicted += window[0, 1:].tolist()
        self.widest = window.shape[1]
        return type("Out", (), {"loss": numpy.float32(1)})


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4), context=st.integers(2, 12))
def test_evaluation_counts_every_token_once(lengths, context):
    documents = [numpy.array([*range(10, 9 + n), 2]) for n in lengths]  # each ends with token 2
    model = Recorder()
    assert evaluate(model, documents, context) == (sum(lengths), sum(lengths))
    assert model.predicted == [i for document in documents for i in document.tolist()]
    assert model.widest <= context + 1


def test_evaluation_is_the_models_own_loss():
    model = BloomForCausalLM(tiny.config(), dtype="float64")
    document = numpy.array([5, 6, 7, 8, 2])
    whole = numpy.array([[2, 5, 6, 7, 8, 2]])
    nats, count = evaluate(model, [document], 10)
    assert nats / count == pytest.approx(float(model(whole, labels=whole).loss), rel=1e-12)


# --- Settings ---


BAD_SETTINGS = [
    ("steps", 0, "a whole number of at least 1"),
    ("steps", 2.0, "a whole number"),
    ("batch_size", True, "a whole number"),
    ("context_length", 1, "at least 2"),  # one token has no next one
    ("seed", -1, "at least 0"),
    ("whole_documents", 1, "True or False"),
    ("learning_rate", -0.1, "a number of at least 0"),
    ("learning_rate", math.nan, "a number of at least 0"),
    ("clip", math.inf, "a number of at least 0"),
    ("clip", "1", "a number of at least 0"),
    ("beta1", 1.0, "a number below 1"),
    ("final_rate", 1.5, "at most 1"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD_SETTINGS)
def test_a_setting_that_makes_no_sense_is_named(name, value, expected):
    with pytest.raises(InputError, match=f"^{name} is .*{expected}"):
        TrainingSettings(**{name: value})


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
    return model, train(model, DOCUMENTS, s, folder, progress=False, **options)


def assert_same_run(one: Any, other: Any) -> None:
    """Every parameter and every number of the history is the same, bit for bit."""
    assert one[1] == other[1]
    for name, p in one[0].params.items():
        numpy.testing.assert_array_equal(p, other[0].params[name], err_msg=name)


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


def test_the_loss_goes_down_and_the_checkpoint_remembers_the_text(tmp_path):
    tokenizer = tiny.tokenizer()
    documents = tokenize({"text": tiny.LINES[0]}, tokenizer)
    s = TrainingSettings(steps=100, batch_size=1, context_length=len(documents[0]), learning_rate=0.01, warmup_steps=5)
    model = BloomForCausalLM(tiny.config())
    history = train(model, documents, s, tmp_path, tokenizer, progress=False)
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


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, presses: int = 1) -> None:
    """Press Ctrl-C in the middle of step number `step`."""
    passed, real = iter(range(1, 10**6)), training.clip_gradients

    def clip(*arguments: Any) -> float:
        if next(passed) == step:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(training, "clip_gradients", clip)


@given(
    stop=st.integers(1, SMALL.steps),
    save_every=st.integers(1, 8),
    accumulation=st.integers(1, 2),
    dropout=st.sampled_from([0.0, 0.2]),
    dtype=st.sampled_from(["float32", "float64"]),
    validate=st.booleans(),
)
@settings(max_examples=12)
def test_a_run_that_is_stopped_and_resumed_is_the_same_bit_for_bit(
    tmp_path_factory, stop, save_every, accumulation, dropout, dtype, validate
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
    resumed = run(folder / "stopped", s, resume=True, **options)
    assert_same_run(resumed, whole)
    assert saved(folder / "stopped") == saved(folder / "whole")
    assert (
        tiny.contents(folder / "stopped")["model.safetensors"] == tiny.contents(folder / "whole")["model.safetensors"]
    )


def saved(folder: Path) -> dict[str, Any]:
    """All that the file of a run holds: parameters and the optimiser's state as bytes, step, history, settings."""
    with safe_open(folder / STATE, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = {name: json.loads(note) for name, note in file.metadata().items()}
    return notes | {name: (x.dtype, x.shape, x.tobytes()) for name, x in tensors.items()}


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


def test_changed_text_is_noticed_and_how_often_to_save_may_change(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    stop_at(monkeypatch, 2)
    run(tmp_path / "run")
    changed = [*DOCUMENTS[:-1], DOCUMENTS[-1] ^ 1]
    with pytest.raises(InputError, match=r"text \(was \w+, now \w+\)"):
        train(small_model(), changed, SMALL, tmp_path / "run", resume=True, progress=False)
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


def stderr_until(process: subprocess.Popen[bytes], wanted: bytes) -> bytes:
    """Read what a process writes to standard error until `wanted` is in it."""
    assert process.stderr
    text, deadline = b"", time.monotonic() + 100
    while wanted not in text:
        assert select.select([process.stderr], [], [], deadline - time.monotonic())[0], text
        new = process.stderr.read1()  # type: ignore[union-attr]
        assert new, text
        text += new
    return text


@pytest.fixture
def start() -> Iterator[Any]:
    """Start `minibloom train`; whatever happens, nothing runs on after the test."""
    started = []

    def starter(*arguments: Any) -> subprocess.Popen[bytes]:
        started.append(tiny.start(*arguments))
        return started[-1]

    yield starter
    for process in started:
        process.kill()
        process.communicate()


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
    deadline = time.monotonic() + 100
    while not (tmp_path / "out" / STATE).exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    stopped = saved(tmp_path / "out")["step"]
    assert 4 <= stopped < STEPS and stopped % 4 == 0
    BloomForCausalLM.from_pretrained(tmp_path / "out")  # whole, whenever the kill came
    status, _, err = tiny.run(*command, "--resume")
    assert status == 0, err
    assert saved(tmp_path / "out") == saved(uninterrupted)


def test_nothing_is_done_before_the_folders_are_known_to_be_good(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(BloomTokenizerFast, "train", lambda *_: pytest.fail("work was done"))
    write(tmp_path, {f"run/{STATE}": b""})
    inside = texts / "out"
    for out, resume, message in [
        (tmp_path / "run", False, "already holds"),
        (tmp_path / "new", True, "no training run"),
        (inside, False, "lies in the folder of text"),
    ]:
        with pytest.raises(InputError, match=message):
            train_folder(texts, out, SMALL, resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert not inside.exists()


def test_too_little_text_leaves_nothing_behind(tmp_path):
    texts = write(tmp_path / "texts", {"a.txt": b"short"})
    with pytest.raises(InputError, match="too few for one batch"):
        train_folder(texts, tmp_path / "out", TrainingSettings(), vocab_size=300, progress=False)
    assert not (tmp_path / "out").exists()


def test_folders_of_training_and_validation_text_are_used_as_such(tmp_path):
    texts = write(tmp_path / "texts", {"train/a.txt": tiny.TEXT.encode(), "validation/b.txt": "猫".encode()})
    s = dataclasses.replace(SMALL, steps=4, save_every=3)
    history = train_folder(
        texts, tmp_path / "out", s, vocab_size=300, progress=False, hidden_size=8, n_layer=1, n_head=2
    )
    assert [record["step"] for record in history if "validation_loss" in record] == [3, 4]  # when saved, and at the end
    tokenizer = BloomTokenizerFast.from_pretrained(tmp_path / "out")
    model = BloomForCausalLM.from_pretrained(tmp_path / "out")
    nats, count = evaluate(model, tokenize(read_documents(texts / "validation"), tokenizer), s.context_length)
    assert history[-1]["validation_loss"] == pytest.approx(nats / count)
    assert model.config.vocab_size == 384  # 300 tokens, rows up to a multiple of 128


def test_training_goes_on_from_a_checkpoint(tmp_path):
    texts, base = write(tmp_path / "texts", {"a.txt": tiny.TEXT.encode()}), tiny.checkpoint(tmp_path / "base")
    s = dataclasses.replace(SMALL, steps=1, learning_rate=0.0)  # one step that changes nothing
    train_folder(texts, tmp_path / "out", s, progress=False, start_from=base)
    before, after = BloomForCausalLM.from_pretrained(base), BloomForCausalLM.from_pretrained(tmp_path / "out")
    for name, p in before.params.items():
        numpy.testing.assert_array_equal(after.params[name], p)
    assert after.config == before.config
    assert BloomTokenizerFast.from_pretrained(tmp_path / "out").get_vocab() == tiny.tokenizer().get_vocab()


def test_a_checkpoint_that_goes_on_learning_keeps_its_shape(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("to be or not to be")
    with pytest.raises(InputError, match="hidden_size cannot be chosen with start_from"):
        train_folder(tmp_path / "text", tmp_path / "out", TrainingSettings(), start_from=tmp_path, hidden_size=64)
    assert not (tmp_path / "out").exists()
