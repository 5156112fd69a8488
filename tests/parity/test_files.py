"""A folder that one library writes, the other loads: same logits, same ids, nothing missing, nothing left over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

import minibloom
from minibloom import BloomConfig, BloomTokenizerFast
from minibloom.tensor_file import read_header

from . import NOT_INSTALLED

torch = pytest.importorskip("torch", reason=NOT_INSTALLED)
transformers = pytest.importorskip("transformers", minversion="5.23", reason=NOT_INSTALLED)

from safetensors.torch import load_file, save_file  # noqa: E402

from .cases import random_params  # noqa: E402
from .compare import error  # noqa: E402

IDS = numpy.array([[5, 3, 3, 16, 0], [1, 2, 3, 4, 5]])
MASK = numpy.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
KINDS = ("BloomForCausalLM", "BloomModel")

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
each_kind = pytest.mark.parametrize("kind", KINDS)
tied_or_not = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
sharded_or_not = pytest.mark.parametrize("sharded", [True, False], ids=["shards", "one file"])


def config(tied: bool = True) -> BloomConfig:
    return BloomConfig(vocab_size=17, hidden_size=24, n_layer=2, n_head=6, tie_word_embeddings=tied)


def our_model(kind: str, tied: bool = True) -> Any:
    model = getattr(minibloom, kind)(config(tied))
    model.params = random_params(model.shapes(model.config), 7, 1.5, "float32")
    return model


def their_model(kind: str, tied: bool = True) -> Any:
    torch.manual_seed(7)
    fields = {name: getattr(config(tied), name) for name in ("vocab_size", "hidden_size", "n_layer", "n_head")}
    settings = transformers.BloomConfig(**fields, tie_word_embeddings=tied, initializer_range=0.3)
    return getattr(transformers, kind)(settings).eval()


def load_theirs(kind: str, folder: Path) -> Any:
    """transformers' model of that kind, computing in float32; every tensor found its place."""
    module, info = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    return module.eval()


def first_output(model: Any) -> numpy.ndarray:
    """Logits, or the last hidden state."""
    if isinstance(model, torch.nn.Module):
        with torch.no_grad():
            return model(torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK))[0].numpy()
    return model(IDS, attention_mask=MASK)[0]


# --- models ---


@each_dtype
@each_kind
@tied_or_not
@sharded_or_not
def test_written_here_loaded_there(tmp_path, dtype, kind, tied, sharded):
    model = our_model(kind, tied)
    model.save_pretrained(tmp_path, dtype=dtype, max_shard_size=10_000 if sharded else 10**9)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == sharded
    theirs = load_theirs(kind, tmp_path)
    reread = getattr(minibloom, kind).from_pretrained(tmp_path)
    assert error(first_output(reread), first_output(theirs)) <= 1e-5
    if dtype == "float32":
        assert error(first_output(model), first_output(theirs)) <= 1e-5
    assert getattr(transformers, kind).from_pretrained(tmp_path).dtype == getattr(torch, dtype)  # as stored
    assert type(transformers.AutoModel.from_pretrained(tmp_path)).__name__ == "BloomModel"


@each_dtype
@each_kind
@tied_or_not
@sharded_or_not
def test_written_there_loaded_here(tmp_path, dtype, kind, tied, sharded):
    theirs = their_model(kind, tied).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path, max_shard_size="10KB" if sharded else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == sharded
    ours = getattr(minibloom, kind).from_pretrained(tmp_path)
    assert ours.config.dtype == dtype
    assert error(first_output(ours), first_output(theirs.float())) <= 1e-5


@pytest.mark.parametrize("writer", [our_model, their_model])
def test_a_file_of_one_kind_loads_as_the_other(tmp_path, writer):
    """The language model's names begin with `transformer.`, the bare model's do not; both libraries read both."""
    for written, read in (KINDS, KINDS[::-1]):
        writer(written).save_pretrained(tmp_path / written)
        ours = getattr(minibloom, read).from_pretrained(tmp_path / written)
        assert error(first_output(ours), first_output(load_theirs(read, tmp_path / written))) <= 1e-5


def test_same_names_shapes_and_dtypes(tmp_path):
    """Not only loadable: the same tensors under the same names, a tied head stored once."""
    for tied in (True, False):
        for kind in KINDS:
            our_model(kind, tied).save_pretrained(tmp_path / "ours")
            their_model(kind, tied).save_pretrained(tmp_path / "theirs")
            ours, theirs = (read_header(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
            assert {name: (x.shape, x.dtype) for name, x in ours.items()} == {
                name: (x.shape, x.dtype) for name, x in theirs.items()
            }


def test_a_second_head_in_a_tied_checkpoint_is_used(tmp_path):
    """config.json says tied, the file holds another `lm_head.weight`: transformers warns and does not tie. So here."""
    their_model("BloomForCausalLM").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    theirs, ours = load_theirs("BloomForCausalLM", tmp_path), minibloom.BloomForCausalLM.from_pretrained(tmp_path)
    assert theirs.lm_head.weight is not theirs.transformer.word_embeddings.weight
    assert (ours.params["lm_head.weight"] == tensors["lm_head.weight"].numpy()).all()
    assert error(first_output(ours), first_output(theirs)) <= 1e-5


# --- classifiers ---

LABELS = {0: "no", 1: "maybe", 2: "yes"}
FIELDS = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}, "pad_token_id": 3}
each_head = pytest.mark.parametrize(
    "kind", ["BloomForSequenceClassification", "BloomForTokenClassification", "BloomForQuestionAnswering"]
)


def all_outputs(model: Any) -> list[numpy.ndarray]:
    """Logits, those of both ends for answers."""
    if isinstance(model, torch.nn.Module):
        with torch.no_grad():
            out = model(torch.from_numpy(IDS), attention_mask=torch.from_numpy(MASK))
        return [out[name].numpy() for name in out if name.endswith("logits")]
    out = model(IDS, attention_mask=MASK)
    return [out[name] for name in out if name.endswith("logits")]


def assert_same_model(ours: Any, theirs: Any) -> None:
    for got, expected in zip(all_outputs(ours), all_outputs(theirs), strict=True):
        assert error(got, expected) <= 1e-5
    for name in (*FIELDS, "num_labels", "problem_type", "classifier_dropout"):
        assert getattr(ours.config, name) == getattr(theirs.config, name, None), name


@each_dtype
@each_head
@pytest.mark.filterwarnings("error:.*is new:UserWarning")
def test_classifier_written_here_loaded_there(tmp_path, dtype, kind):
    model = getattr(minibloom, kind)(config().replace(**FIELDS, problem_type="regression", classifier_dropout=0.3))
    model.params = random_params(model.shapes(model.config), 7, 1.5, "float32")
    model.save_pretrained(tmp_path, dtype=dtype)
    theirs = load_theirs(kind, tmp_path)
    assert_same_model(getattr(minibloom, kind).from_pretrained(tmp_path), theirs)
    if dtype == "float32":
        assert_same_model(model, theirs)
    assert type(transformers.AutoModel.from_pretrained(tmp_path)).__name__ == "BloomModel"


@each_dtype
@each_head
@pytest.mark.filterwarnings("error:.*is new:UserWarning")
def test_classifier_written_there_loaded_here(tmp_path, dtype, kind):
    torch.manual_seed(7)
    fields = {name: getattr(config(), name) for name in ("vocab_size", "hidden_size", "n_layer", "n_head")}
    settings = transformers.BloomConfig(**fields, **FIELDS, initializer_range=0.3, classifier_dropout=0.3)
    theirs = getattr(transformers, kind)(settings).eval().to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    ours = getattr(minibloom, kind).from_pretrained(tmp_path)
    assert ours.config.dtype == dtype and ours.config.architectures == [kind]
    assert_same_model(ours, theirs.float())


@each_head
def test_a_new_head_is_the_only_thing_that_is_new_in_both(tmp_path, kind):
    """From a language model's file: the same names are missing there and drawn here."""
    our_model("BloomForCausalLM").save_pretrained(tmp_path)
    _, info = getattr(transformers, kind).from_pretrained(tmp_path, output_loading_info=True)
    with pytest.warns(UserWarning) as caught:
        getattr(minibloom, kind).from_pretrained(tmp_path)
    missing = set(info["missing_keys"])
    assert len(caught) == 1 and all(name in str(caught[0].message) for name in missing)
    assert missing == set(getattr(minibloom, kind).head_shapes(config()))


# --- tokenizers ---

TEXTS = [
    "All human beings are born free and equal in dignity and rights.",
    "Tous les êtres humains naissent libres… (et | égaux)",
    "人人生而自由,在尊严和权利上一律平等。",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता",
    "def f(x):\n\treturn [x  +  1]  # 🙂\r\n",
    " <s> two  spaces</s> ",
]


def assert_same_tokenizer(ours: Any, theirs: Any) -> None:
    encoded, expected = ours(TEXTS), theirs(TEXTS)
    assert dict(encoded) == {name: expected[name] for name in ("input_ids", "attention_mask")}
    for options in ({"padding": True}, {"padding": True, "truncation": True, "max_length": 7}):
        encoded, expected = ours(TEXTS, **options, return_tensors="np"), theirs(TEXTS, **options, return_tensors="np")
        for name in ("input_ids", "attention_mask"):
            assert (encoded[name] == expected[name]).all()
    for ids in ours(TEXTS)["input_ids"]:
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    for name in ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id", "padding_side"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert len(ours) == len(theirs) and ours.get_vocab() == theirs.get_vocab()


@pytest.fixture(scope="module")
def tokenizer() -> BloomTokenizerFast:
    return BloomTokenizerFast.train(TEXTS * 3, vocab_size=400)


def test_tokenizer_written_here_loaded_there(tmp_path, tokenizer):
    """In one folder with a model, as `AutoTokenizer` expects it."""
    our_model("BloomForCausalLM").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert_same_tokenizer(tokenizer, transformers.AutoTokenizer.from_pretrained(tmp_path))


def test_tokenizer_written_there_loaded_here(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    their_model("BloomForCausalLM").save_pretrained(tmp_path / "theirs")
    assert_same_tokenizer(BloomTokenizerFast.from_pretrained(tmp_path / "theirs"), theirs)
