"""A folder that was fine-tuned, in transformers: the same ids from its tokenizer, the same logits, the same labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from minibloom import finetune
from minibloom.finetuning import load_finetuned
from minibloom.tasks import TASKS

from .. import tiny
from ..test_finetuning import KINDS, LABELS, SMALL, examples_of, tokenizer_for
from . import NOT_INSTALLED

torch = pytest.importorskip("torch", reason=NOT_INSTALLED)
transformers = pytest.importorskip("transformers", minversion="5.23", reason=NOT_INSTALLED)

from .compare import error  # noqa: E402

TEXTS = ["tous les êtres humains", "the dog", "猫坐在垫子上"]


def encoded(tokenizer: Any, task: str, tensors: str) -> Any:
    if task == "text-classification":
        return tokenizer(TEXTS, padding=True, truncation=True, return_tensors=tensors)
    if task == "token-classification":
        words = [text.split() for text in TEXTS]
        return tokenizer(words, is_split_into_words=True, padding=True, return_tensors=tensors)
    return tokenizer(["who?"] * 3, TEXTS, padding=True, truncation="only_second", return_tensors=tensors)


@pytest.mark.filterwarnings("ignore:.*is new, drawn from seed")
@pytest.mark.parametrize("task", TASKS)
def test_transformers_answers_as_the_fine_tuned_model_does(task, tmp_path):
    base = tiny.checkpoint(tmp_path / "base", initializer_range=0.5)
    kind = KINDS[task][0]
    finetune(
        kind.from_pretrained(base, **LABELS[task]), tokenizer_for(task, base), examples_of(task, 10),
        tmp_path / "out", progress=False, **SMALL,
    )  # fmt: skip
    model, tokenizer = load_finetuned(tmp_path / "out")
    theirs, info = getattr(transformers, kind.__name__).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours_in, theirs_in = encoded(tokenizer, task, "np"), encoded(their_tokenizer, task, "pt")
    for name in ("input_ids", "attention_mask"):
        numpy.testing.assert_array_equal(ours_in[name], theirs_in[name].numpy())
    ours = model(**ours_in)
    with torch.no_grad():
        out = theirs.eval()(input_ids=theirs_in["input_ids"], attention_mask=theirs_in["attention_mask"])
    mask = ours_in["attention_mask"] == 1
    names = ["start_logits", "end_logits"] if task == "question-answering" else ["logits"]
    for name in names:
        a, b = ours[name], out[name].numpy()
        real = slice(None) if task == "text-classification" else mask  # at padding they are nothing
        assert error(a[real], b[real]) < 1e-5
    if task != "question-answering":
        assert theirs.config.id2label == model.config.id2label
        assert theirs.config.label2id == model.config.label2id
    assert theirs.config.problem_type == model.config.problem_type


def test_their_pipeline_gives_the_same_labels(tmp_path):
    """The form of the answers is that of pipelines; so are the figures."""
    base = tiny.checkpoint(tmp_path / "base")
    out: Path = tmp_path / "out"
    task = "text-classification"
    kind = KINDS[task][0]
    with pytest.warns(UserWarning, match="is new, drawn from seed"):
        model = kind.from_pretrained(base, **LABELS[task])
    finetune(model, tokenizer_for(task, base), examples_of(task, 10), out, progress=False, **SMALL)
    from minibloom import predict

    ours = predict(*load_finetuned(out), TEXTS)
    theirs = transformers.pipeline(task, model=str(out), tokenizer=str(out), top_k=None)(TEXTS)
    for a, b in zip(ours, theirs, strict=True):
        assert [one["label"] for one in a] == [one["label"] for one in b]
        assert [one["score"] for one in a] == pytest.approx([one["score"] for one in b], abs=1e-5)
