"""The command line: what each command shows, and that whatever is wrong ends in one line, status 2 and no traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors import SafetensorError

import minibloom
from minibloom import (
    BloomForCausalLM,
    BloomForQuestionAnswering,
    BloomForSequenceClassification,
    BloomTokenizerFast,
    step_names,
)
from minibloom.checkpoint import write_checkpoint
from minibloom.cli import main, parser
from minibloom.generation import stream_text
from minibloom.settings import FINETUNING, TrainingSettings
from minibloom.tensor_file import write_tensors

from . import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that never ends a text."""
    return tiny.checkpoint(tmp_path_factory.mktemp("model"), eos_token_id=None, initializer_range=1.0)


# --- What the commands show ---


def test_generate_shows_the_prompt_and_its_continuation(model, capsys):
    assert main(["generate", "--model", str(model), "the cat", "--max-new-tokens", "8"]) == 0
    pieces = stream_text(
        BloomForCausalLM.from_pretrained(model), BloomTokenizerFast.from_pretrained(model), "the cat", max_new_tokens=8
    )
    assert capsys.readouterr().out == "the cat" + "".join(pieces) + "\n"


def test_the_options_of_generate_reach_the_draws(model, capsys):
    sampled = ["generate", "--model", str(model), "猫", "--do-sample", "--temperature", "9", "--max-new-tokens", "12"]
    outputs = []
    for options in (["--seed", "1"], ["--seed", "1"], ["--seed", "2"], ["--seed", "2", "--top-k", "1"],
                    ["--seed", "1", "--top-p", "0.0001"], []):  # fmt: skip
        assert main([*sampled, *options]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    main(["generate", "--model", str(model), "猫", "--max-new-tokens", "12"])
    assert outputs[3] == outputs[4] == capsys.readouterr().out
    assert outputs[5] not in outputs[:3]


def test_precisions_agree(model, capsys):
    for dtype in ("float32", "float64"):
        assert main(["generate", "--model", str(model), "the", "--dtype", dtype, "--max-new-tokens", "5"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_walk_shows_every_step_and_what_comes_next(model, capsys):
    assert main(["walk", "--model", str(model), "the cat", "--top", "3"]) == 0
    out = capsys.readouterr().out
    names = [name for name in step_names(2) if f"\n{name} " in out]
    assert {"word_embeddings", "h.1.self_attention.probs", "h.1", "lm_head"} <= set(names)
    assert out.count("%") == 3
    assert "float32" in out


def test_info_says_what_a_checkpoint_is(model, capsys):
    assert main(["info", str(model)]) == 0
    out = capsys.readouterr().out
    for said in (str(model), "2 blocks, 4 heads of 8, hidden size 32", "384 rows", "37,824", "151.3 kB as float32"):
        assert said in out


def test_train_makes_a_model_that_generate_runs(tmp_path, capsys):
    texts, out = tmp_path / "texts", tmp_path / "out"
    texts.mkdir()
    (texts / "a.txt").write_text(tiny.TEXT, encoding="utf-8")
    options = "--vocab-size 300 --hidden-size 8 --n-layer 1 --n-head 2 --steps 3 --batch-size 1 --context-length 16"
    assert main(["train", str(texts), "--out", str(out), *options.split()]) == 0
    shown = capsys.readouterr()
    assert "saved at step 3 of 3, loss 5." in shown.out
    assert "3/3" in shown.err
    assert main(["generate", "--model", str(out), "the", "--max-new-tokens", "3"]) == 0
    assert main(["info", str(out)]) == 0


EXAMPLES = {
    "text-classification": [
        {"text": "the cat", "label": "en"}, {"text": "le chat dort", "label": "fr"},
    ],
    "token-classification": [
        {"tokens": ["the", "cat"], "ner_tags": ["O", "B-ANIMAL"]}, {"tokens": ["dog"], "ner_tags": ["B-ANIMAL"]},
    ],
    "question-answering": [
        {"question": "who?", "context": "the cat sat.", "answers": {"text": ["the cat"], "answer_start": [0]}},
        {"question": "what?", "context": "the cat sat.", "answers": {"text": ["sat"], "answer_start": [8]}},
    ],
}  # fmt: skip
ASKED = {
    "text-classification": ["the cat"],
    "token-classification": ["the cat sat"],
    "question-answering": ["the cat sat.", "--question", "who?"],
}
FIGURES = {
    "text-classification": ", validation accuracy 1.000.",
    "token-classification": ", validation accuracy 1.000, validation entity f1 1.000.",
    "question-answering": ", validation exact match 1.000, validation f1 1.000.",
}
PERCENT = r"\t *\d+\.\d%\n"
TOLD = {
    "text-classification": f"en{PERCENT}fr{PERCENT}",
    "token-classification": rf"the\tO{PERCENT}cat\tB-ANIMAL{PERCENT}sat\t[\w-]+{PERCENT}",
    "question-answering": f"the cat{PERCENT}",
}


def write_examples(path: Path, examples: list[Any]) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in examples), encoding="utf-8")
    return path


@pytest.mark.parametrize("task", EXAMPLES)
def test_train_fine_tunes_for_a_task_and_predict_asks_the_model(model, tmp_path, capsys, task):
    data, out = write_examples(tmp_path / "data.jsonl", EXAMPLES[task]), str(tmp_path / "out")
    options = ["--steps", "40", "--batch-size", "2", "--learning-rate", "0.01", "--context-length", "32"]
    command = ["train", str(data), "--task", task, "--start-from", str(model), "--out", out, "--validation", str(data)]
    assert main([*command, *options]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{out}: saved at step 40 of 40, loss 0.") and shown.endswith(FIGURES[task] + "\n")
    assert main(["predict", "--model", out, *ASKED[task]]) == 0
    assert re.fullmatch(TOLD[task], told := capsys.readouterr().out), told
    assert main(["predict", "--model", out, *ASKED[task], "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer if isinstance(answer, dict) else answer[0])["score"] > 0.9


@pytest.mark.parametrize("option", [["--weights", "bfloat16"], ["--stream-weights"]])
def test_predict_keeps_weights_as_it_is_asked_to(tmp_path, capsys, monkeypatch, option):
    BloomForSequenceClassification(tiny.config()).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    kept, real = [], minibloom.finetuning.predict

    def watched(model, *arguments):
        kept.append((model.weights, type(model.params).__name__))
        return real(model, *arguments)

    monkeypatch.setattr("minibloom.cli_train.predict", watched)
    assert main(["predict", "--model", str(tmp_path), "the cat", *option]) == 0
    assert kept == [("bfloat16", "dict") if "--weights" in option else ("float32", "StreamedParams")]
    assert capsys.readouterr().out.count("LABEL_") == 2


def test_numbers_from_csv_are_learnt_and_predicted_as_numbers(model, tmp_path, capsys):
    (tmp_path / "data.csv").write_text("text,label\nthe cat,1.5\nle chien,-1\n")
    command = ["train", str(tmp_path / "data.csv"), "--task", "text-classification", "--start-from", str(model)]
    assert main([*command, "--out", str(tmp_path / "out"), "--steps", "40", "--learning-rate", "0.01"]) == 0
    assert main(["predict", "--model", str(tmp_path / "out"), "the cat"]) == 0
    assert re.fullmatch(r"LABEL_0\t1\.[3-7]\d*", shown := capsys.readouterr().out.splitlines()[-1])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps(config | {"problem_type": None}))  # one label says it too
    assert main(["predict", "--model", str(tmp_path / "out"), "the cat"]) == 0
    assert capsys.readouterr().out.splitlines() == [shown]


def test_every_training_setting_is_an_option_that_tells_its_default():
    arguments = parser().parse_args(["train", "texts", "--out", "out", "--warmup-steps", "7"])
    assert arguments.warmup_steps == 7
    told = {action.dest: action.help for action in arguments.parser._actions}
    for name, value in vars(TrainingSettings()).items():
        with_task = f", with --task {FINETUNING[name]}" if name in FINETUNING else ""
        assert value is False or told[name].endswith(f"(default {value}{with_task})")


def test_help_lists_every_command(capsys):
    for arguments in (["--help"], ["generate", "--help"], ["train", "--help"], ["bench", "--help"]):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("generate", "walk", "info", "train", "bench", "--top-p", "--resume"))


# --- What is wrong ends in one line ---


def status_of(*arguments: Any) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's way
        return int(stop.code or 0)


def assert_refused(capsys: pytest.CaptureFixture[str], home: Path, said: str, *arguments: Any) -> None:
    """The command ends with status 2 and one line that says `said`; it writes nothing, to stdout or under `home`."""
    before = tiny.contents(home)
    assert status_of(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1 and shown.err.endswith("\n")
    assert shown.err.startswith("minibloom")
    assert said in shown.err
    assert tiny.contents(home) == before


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | changes))

    return edit


def edit_tensors(change: Callable[[dict[str, numpy.ndarray]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        params = {f"transformer.{name}": p for name, p in BloomForCausalLM.from_pretrained(folder).params.items()}
        change(params)
        write_tensors(folder / "model.safetensors", {name: (p, "float32") for name, p in params.items()})

    return edit


def truncate(name: str, length: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_that_leads_out(folder: Path) -> None:
    loaded = BloomForCausalLM.from_pretrained(folder)
    write_checkpoint(folder, loaded.params, loaded.config, max_shard_size=50_000)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {name: f"../{file}" for name, file in index["weight_map"].items()}
    path.write_text(json.dumps(index))


BIAS = "transformer.h.1.mlp.dense_h_to_4h.bias"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing tensor": (edit_tensors(lambda p: p.pop(BIAS)), "h.1.mlp.dense_h_to_4h.bias"),
    "extra tensor": (edit_tensors(lambda p: p.update(rotary=p[BIAS])), "'rotary'"),
    "wrong shape": (edit_tensors(lambda p: p.update({BIAS: p[BIAS][1:]})), "has shape [127], expected [128]"),
    "truncated": (truncate("model.safetensors", 20_000), "model.safetensors"),
    "empty": (truncate("model.safetensors", 0), "model.safetensors"),
    "no header": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100), "model.safetensors"),
    "only a pickle": (only_a_pickle, "pytorch_model.bin"),
    "index that leads out": (index_that_leads_out, "index.json names '../model-"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
    "config no JSON": (truncate("config.json", 30), "config.json is no valid JSON"),
    "another model": (edit_config(model_type="gpt2"), "model_type is 'gpt2', expected 'bloom'"),
    "impossible heads": (edit_config(n_head=5), "hidden_size is 32, expected a multiple of n_head 5"),
    "impossible size": (edit_config(n_layer=-1), "n_layer is -1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("command", ["generate", "info"])
def test_a_checkpoint_that_cannot_be_used_is_refused(model, tmp_path, capsys, command, damage):
    folder = shutil.copytree(model, tmp_path / "model")
    harm, said = DAMAGE[damage]
    harm(folder)
    arguments = ["--model", folder, "the"] if command == "generate" else [folder]
    assert_refused(capsys, tmp_path, said, command, *arguments)


def test_a_pickle_is_never_opened_and_how_to_convert_it_is_said(model, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "model")
    only_a_pickle(folder)
    assert_refused(capsys, tmp_path, "save_pretrained(", "generate", "--model", folder, "the")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_cannot_be_read_is_refused(model, tmp_path, capsys, name):
    folder = shutil.copytree(model, tmp_path / "model")
    truncate(name, 40)(folder)
    assert_refused(capsys, tmp_path, name, "generate", "--model", folder, "the")


def test_a_tokenizer_of_another_model_is_refused(model, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "model")
    BloomForCausalLM(tiny.config(vocab_size=50)).save_pretrained(folder)
    for command in ("generate", "walk"):
        assert_refused(
            capsys, tmp_path, "expected ids from 0 to 49. Does the tokenizer", command, "--model", folder, "the"
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate"], "arguments are required: prompt"),
        (["generate", ""], "the prompt is empty"),
        (["walk", ""], "the prompt is empty"),
        (["generate", "the", "--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["generate", "the", "--max-new-tokens", "many"], "invalid int value: 'many'"),
        (["generate", "the", "--temperature", "0.5"], "--temperature is 0.5 but --do-sample is False"),
        (["generate", "the", "--do-sample", "--temperature", "0"], "temperature is 0.0"),
        (["generate", "the", "--do-sample", "--top-k", "-1"], "--top-k is -1"),
        (["generate", "the", "--do-sample", "--top-p", "2"], "--top-p is 2.0"),
        (["generate", "the", "--do-sample", "--seed", "-1"], "--seed is -1"),
        (["generate", "the", "--dtype", "float16"], "dtype='float16'"),
        (["generate", "the", "--backend", "numpi"], "Did you mean 'numpy'?"),
        (["generate", "half a \udce9 character"], "half of a surrogate pair"),
        (["generate", "the", "cat"], "'cat' is not expected. Several words need quotes"),
        (["generate", "-cat"], "'-cat' is not expected. A text that begins with - stands last, behind --"),
        (["generate", "--", "-cat", "--top-k=3"], "'--top-k=3' is not expected. A text that begins with - stands last"),
        (["generate", "the", "--temprature", "1"], "'--temprature' is not expected. Did you mean '--temperature'?"),
        (["walk", "the", "--top", "0"], "top is 0"),
        (["walk", "the", "--revision", "main"], "--revision is 'main', but"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(model, tmp_path, capsys, arguments, said):
    arguments = [*arguments, "--model", model] if len(arguments) > 1 else arguments
    assert_refused(capsys, tmp_path, said, *arguments)


@pytest.mark.parametrize("arguments", [["generate", ""], ["walk", ""], ["generate", "the", "--top-k", "3"]])
def test_no_model_is_loaded_for_what_cannot_be_used(model, capsys, monkeypatch, arguments):
    monkeypatch.setattr(BloomForCausalLM, "from_pretrained", lambda *_: pytest.fail("it was loaded"))
    assert main([*arguments, "--model", str(model)]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: command"),
        (["genrate", "the"], "invalid choice: 'genrate'"),
        (["info", "/no/such/folder"], "'/no/such/folder' does not exist"),
        (["info", "."], "is no checkpoint: config.json does not exist. Give a folder that a model is saved in"),
        (["info", "--model", "x"], "'--model' is not expected"),
        (["info", "--revision", "main"], "--revision is 'main', but the shipped model has no revisions: leave it out"),
        (["quantize", ".", "new", "--revision", "v1"], "--revision is 'v1', but '.', which is here, has no revisions"),
        (["generate", "--model", "./absent", "the"], "'./absent' does not exist"),
        (["generate", "--model", __file__, "the"], "is a file, expected the folder of a checkpoint"),
        (["bench", "speed"], "there is no work 'speed'"),
        (["bench", "--repeats", "0"], "repeats is 0"),
        (["bench", "--growth", "load"], "load is named, but --growth has its own work"),
        (["bench", "--cost", "load"], "load is named, but --cost has its own work"),
        (["train", "texts", "--out", "new", "--lr", "1"], "'--lr' is not expected. Use --learning-rate."),
        (["train", "texts"], "required: --out"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, capsys, arguments, said):
    assert_refused(capsys, tmp_path, said, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent", "--out", "new"], "absent is no folder"),
        (["nothing", "--out", "new"], "nothing holds no text"),
        (["bytes", "--out", "new"], "a.bin is not UTF-8 text (byte 1)"),
        (["texts", "--out", "new"], "too few for one batch"),
        (["texts", "--out", "a.file", "--context-length", "4"], "a.file is no folder"),
        (["texts", "--out", "texts/new"], "lies in the folder of text"),
        (["texts", "--out", "run"], "already holds a training run"),
        (["texts", "--out", "model"], "model already holds a checkpoint (model.safetensors)"),
        (["texts", "--out", "shards"], "shards already holds a checkpoint (model.safetensors.index.json)"),
        (["texts", "--out", "new", "--resume"], "no training run to resume"),
        (["texts", "--out", "new", "--vocab-size", "100"], "vocab_size is 100, expected"),
        (["texts", "--out", "new", "--n-head", "3"], "expected a multiple of n_head 3"),
        (["texts", "--out", "new", "--dropout", "1"], "hidden_dropout is 1.0"),
        (["texts", "--out", "new", "--steps", "0"], "steps is 0"),
        (["texts", "--out", "new", "--context-length", "1"], "context_length is 1"),
    ],
)
def test_training_that_cannot_begin_writes_nothing(tmp_path, capsys, monkeypatch, arguments, said):
    files = {
        "texts/a.txt": tiny.LINES[0].encode(),
        "bytes/a.bin": b"a\xff",
        "nothing/a.txt": b" ",
        "a.file": b"",
        "run/training.safetensors": b"",
        "model/model.safetensors": b"",
        "shards/model.safetensors.index.json": b"",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, tmp_path, said, "train", "--vocab-size", "260", *arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.jsonl"], "absent.jsonl cannot be read: No such file"),
        (["texts"], "texts is a folder, expected a file of labelled examples"),
        (["empty.jsonl"], "empty.jsonl holds no examples"),
        (["broken.jsonl"], "broken.jsonl, line 2 is no JSON"),
        (["data.jsonl", "--task", "token-classification"], "data.jsonl, line 1 has no field 'ner_tags'"),
        (["data.jsonl", "--task", "tagging"], "invalid choice: 'tagging'"),
        (["data.jsonl", "--validation", "other.jsonl"], "other.jsonl, line 1: the label 'zh' is unknown. Known are en"),
        (["data.jsonl", "--validation", "1.5"], "validation is 1.5, expected a share of the 2 examples"),
        (["data.jsonl", "--validation", "nan"], "validation is nan, expected a share"),
        (["data.jsonl", "--hidden-size", "8"], "hidden_size cannot be chosen with --task"),
        (["data.jsonl", "--whole-documents"], "whole_documents cannot be chosen with --task"),
        (["data.jsonl", "--out", "run"], "already holds a training run"),
        (["data.jsonl", "--out", "model"], "already holds a checkpoint"),
        (["data.jsonl", "--resume"], "no training run to resume"),
        (["data.jsonl", "--out", "data.jsonl"], "data.jsonl is no folder"),
        (["data.jsonl", "--steps", "0"], "steps is 0"),
        (["data.jsonl", "--start-from", "./nowhere"], "'./nowhere' does not exist"),
    ],
)
def test_fine_tuning_that_cannot_begin_writes_nothing(model, tmp_path, capsys, monkeypatch, arguments, said):
    write_examples(tmp_path / "data.jsonl", EXAMPLES["text-classification"])
    write_examples(tmp_path / "other.jsonl", [{"text": "猫", "label": "zh"}])
    (tmp_path / "broken.jsonl").write_text('{"text": "x", "label": "y"}\nlabel\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    for folder in ("texts", "run", "model"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "training.safetensors").write_bytes(b"")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    command = ["train", "--task", "text-classification", "--start-from", model, "--out", "new", *arguments]
    assert_refused(capsys, tmp_path, said, *command)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "data.jsonl", "--out", "new"], "What the examples in a file are for is said with --task"),
        (["train", "texts", "--out", "new", "--validation", "0.1"], "--validation needs --task"),
        (["predict", "the cat"], "arguments are required: --model"),
        (["predict", "--model", "MODEL", "the cat"], "was saved as BloomForCausalLM, expected one of"),
        (["predict", "--model", "CLASSIFIER", ""], "the text is empty"),
        (["predict", "--model", "CLASSIFIER", " "], "the text is empty"),
        (["predict", "--model", "CLASSIFIER", "the cat", "--question", "who?"], "answers no --question"),
        (["predict", "--model", "READER", "the cat"], "needs a --question"),
        (["predict", "--model", "READER", "the cat", "--question", ""], "the input: question is ''"),
        (["predict", "--model", "CLASSIFIER", "half a \udce9 character"], "half of a surrogate pair"),
    ],
)
def test_what_predict_cannot_answer_is_said(model, tmp_path, capsys, monkeypatch, arguments, said):
    places = {"MODEL": model, "CLASSIFIER": tmp_path / "classifier", "READER": tmp_path / "reader"}
    for name, kind in (("CLASSIFIER", BloomForSequenceClassification), ("READER", BloomForQuestionAnswering)):
        kind(tiny.config()).save_pretrained(places[name])
        tiny.tokenizer().save_pretrained(places[name])
    (tmp_path / "texts").mkdir()
    write_examples(tmp_path / "data.jsonl", EXAMPLES["text-classification"])
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, tmp_path, said, *(places.get(argument, argument) for argument in arguments))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nothing can be made")
@pytest.mark.parametrize(
    "arguments",
    [
        ["quantize", "MODEL", "/proc"],
        ["generate", "--model", "MODEL", "the cat", "--prompt-cache", "/proc/x"],
        ["parity", "MODEL", "--write", "/proc/x"],
        ["train", "TEXTS", "--out", "/proc", "--steps", "1", "--vocab-size", "260", "--context-length", "4"],
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(model, tmp_path, capsys, arguments):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(tiny.TEXT, encoding="utf-8")
    assert status_of(*({"MODEL": model, "TEXTS": tmp_path / "texts"}.get(one, one) for one in arguments)) == 2
    *progress, line = re.split("[\r\n]", capsys.readouterr().err.rstrip("\n"))
    assert line.startswith(f"minibloom {arguments[0]}: ") and "No such file or directory" in line and "/proc" in line
    assert arguments[0] == "train" or not progress


NO_ROOM = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "a/b"), "a/b: No space left on device."),
        (OSError("told\nin two lines"), "told in two lines."),
        (SafetensorError(NO_ROOM), f"{NO_ROOM}."),
        (MemoryError(), "there is not enough memory."),
        (MemoryError("Unable to allocate 9 TiB"), "there is not enough memory: Unable to allocate 9 TiB."),
    ],
)
def test_what_the_system_refuses_is_one_line(model, monkeypatch, capsys, error, said):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("minibloom.cli_generate.stream_text", refuse)
    assert main(["generate", "--model", str(model), "the"]) == 2
    assert capsys.readouterr().err == f"minibloom generate: {said}\n"


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyError("a"), SafetensorError("invalid header")])
def test_real_bugs_keep_their_traceback(model, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("minibloom.cli_generate.stream_text", fail)
    with pytest.raises(type(error)):
        main(["generate", "--model", str(model), "the"])


# --- In a process of its own ---


def test_a_hub_that_cannot_be_reached_is_said(tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    for arguments in (["generate", "--model", "bigscience/bloom-560m", "the"], ["info", "bigscience/bloom-560m"]):
        status, out, err = tiny.run(*arguments, **nowhere)
        assert (status, out) == (2, "")
        assert "'bigscience/bloom-560m' is no folder here" in err and "cannot be reached" in err
        assert err.count("\n") == 1


def test_ctrl_c_ends_generation_quietly(model):
    process = tiny.start("generate", "--model", model, "the cat", "--max-new-tokens", 10**6)
    assert process.stdout
    assert process.stdout.read(8)[:7] == b"the cat"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert err.strip() == b""


def test_a_reader_who_leaves_early_is_no_error(model):
    walking = tiny.start("walk", "--model", model, "the cat")
    assert walking.stdout and walking.stdout.readline()
    generating = tiny.start("generate", "--model", model, "the cat", "--max-new-tokens", 10**6)
    assert generating.stdout and generating.stdout.read(1)
    telling = tiny.start("info", model)  # its reader is gone before it has said a word
    for process in (telling, walking, generating):
        assert process.stdout and process.stderr
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        assert (process.wait(timeout=100), err) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_behind_standard_output_is_one_line(model):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*tiny.COMMAND, "info", str(model)], env=os.environ | tiny.ENVIRONMENT, stdout=full, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (2, b"minibloom info: No space left on device.\n")


def test_what_an_encoding_lacks_is_shown_escaped(model):
    command = ["generate", "--model", model, "猫 cat", "--max-new-tokens", 3]
    status, plain, _ = tiny.run(*command)
    assert status == 0 and plain.startswith("猫 cat")
    status, escaped, err = tiny.run(*command, PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")
    assert escaped == plain.encode("ascii", "backslashreplace").decode()
    status, out, err = tiny.run("walk", "--model", model, "猫", PYTHONIOENCODING="latin-1")
    assert (status, err) == (0, "")
    assert "lm_head" in out


@pytest.mark.skipif(os.name != "posix", reason="locales are POSIX's")
def test_a_locale_without_utf8_gets_an_answer(model):
    posix = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    status, out, err = tiny.run("generate", "--model", model, "the", "--max-new-tokens", 3, **posix)
    assert (status, err) == (0, "")
    assert out.startswith("the")


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"minibloom {minibloom.__version__}\n"
