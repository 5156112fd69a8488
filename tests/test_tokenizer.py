"""The tokenizer: nothing is lost between text and ids, and ids, offsets and files are those of transformers."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from minibloom.errors import InputError
from minibloom.tokenizer import INSTEAD, BloomTokenizerFast

from .texts import CORPUS, sides, texts, trained

CUTTING = {side: trained(truncation_side=side) for side in ("left", "right")}
TRIMMING = {trim: trained(trim_offsets=trim) for trim in (True, False)}


@pytest.fixture(scope="module")
def tokenizer() -> BloomTokenizerFast:
    return trained()


@pytest.fixture(scope="module")
def word_tokenizer() -> BloomTokenizerFast:
    return trained(add_prefix_space=True)


# --- Calls ---


@given(batch=st.lists(texts, min_size=1, max_size=4), side=sides, multiple=st.integers(1, 5))
def test_a_padded_batch_is_its_rows_and_padding_on_one_side(tokenizer, batch, side, multiple):
    alone = [tokenizer(text).input_ids for text in batch]
    padded = tokenizer(
        batch, padding=True, padding_side=side, pad_to_multiple_of=multiple, return_tensors="np",
        return_special_tokens_mask=True, return_length=True,
    )  # fmt: skip
    width = -(-max(map(len, alone)) // multiple) * multiple
    assert padded.input_ids.shape == padded.attention_mask.shape == (len(batch), width)
    assert padded.input_ids.dtype == padded.attention_mask.dtype == numpy.int64
    assert padded.length.tolist() == [width] * len(batch)
    for ids, row, mask in zip(alone, padded.input_ids, padded.attention_mask, strict=True):
        real = slice(width - len(ids), None) if side == "left" else slice(0, len(ids))
        assert row[real].tolist() == ids
        assert mask[real].all() and mask.sum() == len(ids)
        assert (row[mask == 0] == tokenizer.pad_token_id).all()
    assert (padded.special_tokens_mask == 1 - padded.attention_mask).all()
    later = tokenizer.pad(
        [tokenizer(text) for text in batch], padding_side=side, pad_to_multiple_of=multiple, return_tensors="np"
    )
    assert later.keys() == {"input_ids", "attention_mask"}
    assert all(numpy.array_equal(later[name], padded[name]) for name in later)


def test_padding_is_on_the_left_unless_said_otherwise(tokenizer):
    assert tokenizer(["a", "a, b"], padding=True)["attention_mask"][0][-1] == 1
    assert trained(padding_side="right")(["a", "a, b"], padding=True)["attention_mask"][0][0] == 1
    assert tokenizer("a", padding="max_length", max_length=4).input_ids == [3, 3, 3, *tokenizer.encode("a")]
    unpadded = tokenizer("a, b", padding="do_not_pad", truncation=True, max_length=3, pad_to_multiple_of=2)
    assert len(unpadded.input_ids) == 3
    assert tokenizer.pad(tokenizer("a"), "max_length", max_length=4).attention_mask == [0, 0, 0, 1]
    assert tokenizer.pad(tokenizer(""), "max_length", max_length=2).input_ids == [3, 3]
    assert tokenizer.pad({"input_ids": [4], "labels": 7}, pad_to_multiple_of=2).labels == 7


@given(text=texts, limit=st.integers(1, 12), side=sides)
def test_truncation_keeps_one_end(text, limit, side):
    tokenizer = CUTTING[side]
    ids = tokenizer.encode(text)
    kept = ids[:limit] if side == "right" else ids[-limit:]
    assert tokenizer.encode(text, truncation=True, max_length=limit) == kept
    assert tokenizer.encode(text, max_length=limit) == kept
    assert tokenizer.encode(text, truncation=False, max_length=limit) == ids
    assert tokenizer.encode(text, truncation=True) == ids  # no limit anywhere: nothing is cut


@given(first=texts, second=texts.filter(len), spare=st.integers(1, 8))
def test_a_pair_is_both_texts_one_after_the_other(tokenizer, first, second, spare):
    one, two = tokenizer.encode(first), tokenizer.encode(second)
    pair = tokenizer(first, second, return_token_type_ids=True)
    assert pair.input_ids == one + two
    assert pair.token_type_ids == pair.sequence_ids() == [0] * len(one) + [1] * len(two)
    assert pair.tokens() == tokenizer.convert_ids_to_tokens(one + two) == tokenizer.tokenize(first, second)
    cut = tokenizer.encode(first, second, truncation="only_second", max_length=len(one) + spare)
    assert cut == one + two[:spare]


def test_a_call_is_not_cut_because_another_thread_truncates(monkeypatch):
    tokenizer = trained()
    text, backend, whole = "to be, or not to be", tokenizer.backend_tokenizer, []
    other = threading.Thread(target=lambda: whole.append(tokenizer.encode(text)))

    class Slow:
        """The backend, which is at work until the other thread has had its time."""

        def __getattr__(self, name):
            return getattr(backend, name)

        def encode_batch(self, *args, **kwargs):
            if threading.current_thread() is not other:
                other.start()
                other.join(0.2)
            return backend.encode_batch(*args, **kwargs)

    expected = tokenizer.encode(text)
    monkeypatch.setattr(tokenizer, "_backend", Slow())
    assert tokenizer.encode(text, truncation=True, max_length=2) == expected[:2]
    other.join()
    assert whole == [expected] and len(expected) > 2


@given(batch=st.lists(texts, min_size=1, max_size=3), limit=st.integers(2, 6), stride=st.integers(0, 1))
def test_what_is_cut_comes_as_further_rows(batch, limit, stride):
    tokenizer = TRIMMING[True]
    rows = tokenizer(
        batch, truncation=True, max_length=limit, stride=stride, return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )  # fmt: skip
    whole = tokenizer(batch, return_offsets_mapping=True)
    for name in ("input_ids", "offset_mapping"):
        joined = [[] for _ in batch]
        for origin, row in zip(rows.overflow_to_sample_mapping, rows[name], strict=True):
            before = joined[origin]
            assert row[:stride] == before[len(before) - stride :] or not before
            before += row[stride:] if before else row
        assert joined == whole[name]


@given(text=texts, trim=st.booleans())
def test_offsets_say_where_a_token_stands_in_its_text(text, trim):
    tokenizer = TRIMMING[trim]
    encoded = tokenizer(text, return_offsets_mapping=True)
    covered = set()
    for token_id, (begin, end) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
        token = tokenizer.decode([token_id])
        if "\ufffd" not in token:  # a part of a character has the offsets of the whole one
            assert text[begin:end] == (token.strip(" ") if trim else token)
        covered |= set(range(begin, end))
    assert covered >= {i for i, character in enumerate(text) if not trim or character != " "}


@given(words=st.lists(texts, max_size=5))
def test_a_text_may_come_as_words(word_tokenizer, words):
    encoded = word_tokenizer(words, is_split_into_words=True)
    alone = [word_tokenizer.encode(word) for word in words]
    assert encoded.input_ids == [token_id for ids in alone for token_id in ids]
    assert encoded.word_ids() == [i for i, ids in enumerate(alone) for _ in ids]


def test_offsets_of_words_are_right_with_prefix_spaces():
    tokenizer = trained(add_prefix_space=True, trim_offsets=True)
    words = [" human,beings", "born"]
    encoded = tokenizer(words, is_split_into_words=True, return_offsets_mapping=True)
    spans = zip(encoded.word_ids(), encoded.tokens(), encoded.offset_mapping, strict=True)
    shown = [words[word][begin:end] for word, token, (begin, end) in spans if token != "Ġ"]  # a lone prefix
    assert "".join(shown) == "human,beingsborn"


def test_add_prefix_space_reads_the_first_word_like_any_other(tokenizer, word_tokenizer):
    assert word_tokenizer.encode("human") == tokenizer.encode(" human") != tokenizer.encode("human")
    assert word_tokenizer.encode(" human") == tokenizer.encode(" human")
    # As in transformers 4, every piece gets its space, not only the first.
    assert word_tokenizer.decode(word_tokenizer.encode("free.And")) == " free . And"


# --- Files ---


def same(one: BloomTokenizerFast, two: BloomTokenizerFast) -> None:
    text = [" ".join(CORPUS), "  a(b)|c,d </s> <x> \n", ""]
    assert one(text, return_offsets_mapping=True) == two(text, return_offsets_mapping=True)
    names = vars(one).keys() - {"_backend", "_added", "name_or_path"}
    assert {name: vars(one)[name] for name in names} == {name: vars(two)[name] for name in names}
    assert one.all_special_tokens == two.all_special_tokens


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_prefix_space": True, "trim_offsets": True, "padding_side": "right", "errors": "ignore"},
        {"pad_token": None, "eos_token": "<end>", "additional_special_tokens": ["<a>"], "model_max_length": 7},
    ],
)
def test_saving_and_loading_is_the_identity(tmp_path, options):
    tokenizer = trained(**options)
    folder = tmp_path / "new" / "folder"
    written = tokenizer.save_pretrained(folder)
    assert {Path(path).name for path in written} == {path.name for path in folder.iterdir()}
    merges = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    assert all(isinstance(pair, str) for pair in merges)  # the form that transformers 4 can read too
    same(BloomTokenizerFast.from_pretrained(folder), tokenizer)
    turned = trained(**options | {"padding_side": "left"})
    same(BloomTokenizerFast.from_pretrained(str(folder), padding_side="left"), turned)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_a_tokenizer_can_be_copied_and_sent(again):
    tokenizer = trained(eos_token="<end>", padding_side="right", add_prefix_space=True)
    same(again(tokenizer), tokenizer)


def test_the_files_of_other_versions_are_read(tmp_path):
    """Before 4.34 of transformers, special_tokens_map.json had the last word; 5 calls more tokens extra."""
    tokenizer = trained(additional_special_tokens=["<x>", "<y>"])
    tokenizer.save_pretrained(tmp_path)
    config_file, map_file = tmp_path / "tokenizer_config.json", tmp_path / "special_tokens_map.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    map_file.write_text('{"pad_token": {"content": "<x>", "lstrip": true}, "additional_special_tokens": ["<x>"]}')
    old = BloomTokenizerFast.from_pretrained(tmp_path)
    assert (old.pad_token, old.eos_token, old.additional_special_tokens) == ("<x>", "</s>", ["<x>"])
    assert old.tokenize("a <x>") == ["a", " <x>"]
    config_file.write_text(json.dumps(config | {"added_tokens_decoder": {}}))
    assert BloomTokenizerFast.from_pretrained(tmp_path).pad_token == "<pad>"
    del config["additional_special_tokens"]
    for extra in (["<y>"], {"image_token": "<y>"}):
        config_file.write_text(json.dumps(config | {"backend": "tokenizers", "extra_special_tokens": extra}))
        new = BloomTokenizerFast.from_pretrained(tmp_path)
        assert (new.pad_token, new.additional_special_tokens) == ("<pad>", ["<y>"])


def test_a_length_without_limit_may_be_said_in_many_ways(tmp_path):
    for limit in (None, int(1e30), 10**22):
        tokenizer = trained(model_max_length=limit)
        assert tokenizer.encode("a, b", truncation=True) == tokenizer.encode("a, b", padding="max_length")
    assert trained(model_max_length=None).model_max_length == int(1e30)


def test_a_folder_with_only_tokenizer_json_keeps_its_pipeline(tmp_path):
    tokenizer = trained(add_prefix_space=True, trim_offsets=True)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    same(BloomTokenizerFast.from_pretrained(tmp_path), tokenizer)
    assert not BloomTokenizerFast(tokenizer_file=tmp_path / "tokenizer.json").add_prefix_space


def test_vocabulary_and_merges_make_the_same_tokenizer(tmp_path, tokenizer):
    same(BloomTokenizerFast(*tokenizer.save_vocabulary(tmp_path / "ours")), tokenizer)
    same(BloomTokenizerFast(*tokenizer._backend.model.save(str(tmp_path))), tokenizer)
    files = [(tmp_path / "ours" / name).read_text(encoding="utf-8") for name in ("vocab.json", "merges.txt")]
    assert [json.loads(files[0]), files[1].splitlines()[1:]] == [
        json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")),
        (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()[1:],
    ]


def test_a_repository_is_fetched(tmp_path, monkeypatch, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr("minibloom.tokenizer.fetch", lambda *arguments: asked.append(arguments) or tmp_path)
    same(BloomTokenizerFast.from_pretrained("someone/bloom", revision="main"), tokenizer)
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    assert asked == [("someone/bloom", names, "main")]


def test_importing_the_tokenizer_does_not_import_the_library():
    code = "import sys, minibloom.tokenizer; print('tokenizers' in sys.modules, 'huggingface_hub' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]


# --- Bad input ---


BAD_CALLS = [
    (lambda t: t([]), r"text is \[\], expected a string"),
    (lambda t: t(None), "text is None"),
    (lambda t: t(["a", 3]), r"text is \['a', 3\]"),
    (lambda t: t("a", ["b"]), "text_pair is"),
    (lambda t: t(["a", "b"], ["c"]), "a string for each text, 2 here"),
    (lambda t: t("half \ud83d"), "surrogate"),
    (lambda t: t("a", padded=True), "no argument 'padded'. Did you mean 'padding'"),
    (lambda t: t("a", padding="longst"), "padding is 'longst', expected one of longest, max_length"),
    (lambda t: t("a", padding_side="middle", padding=True), "padding_side is 'middle'"),
    (lambda t: t("a", truncation="only_third"), "truncation is 'only_third'"),
    (lambda t: t("a", truncation="only_second", max_length=9), "only_second' needs a text_pair"),
    (lambda t: t("a", max_length=0), "max_length is 0"),
    (lambda t: t("a", truncation=True, max_length=2, stride=2), "stride is 2, expected a whole number from 0 to 1"),
    (lambda t: t("a, b, c", "a, b", truncation="only_second", max_length=2), "too short"),
    (lambda t: t("a", padding=True, truncation=True, max_length=5, pad_to_multiple_of=4), "no multiple"),
    (lambda t: t("a", return_tensors="pt"), "return_tensors is 'pt', expected one of np, cp"),
    (lambda t: t(["a", "a, b"], return_tensors="np"), "rows of 1 to 3 numbers, .* pass padding=True"),
    (lambda t: t(["a"], is_split_into_words=True), "add_prefix_space=True"),
    (lambda t: t.decode([4, 400]), "id 400 is not in the vocabulary, 0 to 399"),
    (lambda t: t.decode([-1]), "id -1 "),
    (lambda t: t.decode([1.5]), "id 1.5 "),
    (lambda t: t.decode([[1, 2]]), r"id \[1, 2\] "),
    (lambda t: t.stream().put(10**12), "not in the vocabulary"),
    (lambda t: t.convert_tokens_to_string(["no such"]), "not in the vocabulary"),
    (lambda t: t([["a", "b"]]), "Pairs come as text and text_pair, words with is_split_into_words=True"),
    (lambda t: t("a", text_target="b"), r"no argument .text_target.. Use a call of its own: labels = tokenizer\("),
    (lambda t: t("a", max_length=4, pad_to_max_length=True), 'Use padding="max_length"'),
    (lambda t: t("a, b, c, d", "a, b", truncation=True, max_length=3, stride=1), "stride is 1, .* only 1 tokens"),
    (lambda t: t.pad({"labels": [1]}), "encoded_inputs is .* expected input_ids"),
    (lambda t: t.pad(3), "encoded_inputs is 3, expected input_ids"),
    (lambda t: t.pad([]), r"encoded_inputs is \[\], expected input_ids"),
    (lambda t: t.pad({"input_ids": 3}), "input_ids has 3, expected a list"),
    (lambda t: t.pad({"input_ids": [[4], 5]}), "input_ids has 5, expected a list"),
    (lambda t: t.pad({"input_ids": [[4], [5]], "labels": [1]}), r"labels is \[1\], expected 2 rows, as in input_ids"),
    (lambda t: t.pad({"input_ids": [[4], [5]], "labels": 1}), "labels is 1, expected 2 rows"),
    (lambda t: t.pad({"input_ids": [[4, 4]], "attention_mask": [[1]]}), r"attention_mask has \[1\], expected"),
    (lambda t: t.convert_tokens_to_ids(None), "tokens is None, expected a string or a list"),
    (lambda t: t.convert_tokens_to_ids(["a", 3]), "tokens is .'a', 3., expected a string or a list"),
    (lambda t: trained(additional_special_tokens="<x>"), "additional_special_tokens is '<x>', expected a list"),
    (lambda t: BloomTokenizerFast(tokenizer_object=t), "expected a tokenizers.Tokenizer"),
    (lambda t: trained(sep_token="<x>"), "Use additional_special_tokens: BLOOM has no sep_token"),
    (lambda t: t.pad([t("a"), {"input_ids": [4]}]), "keys"),
    (lambda t: t.pad(t("a")).tokens(), "0 texts were encoded"),
    (lambda t: BloomTokenizerFast(), "from_pretrained"),
    (lambda t: BloomTokenizerFast(tokenizer_file="none.json"), "tokenizer_file: there is no file none.json"),
    (lambda t: BloomTokenizerFast(vocab_file="none.json"), "vocab_file: there is no file"),
    (lambda t: BloomTokenizerFast(pading_side="left"), "Did you mean 'padding_side'"),
    (lambda t: trained(padding_side="up"), "padding_side is 'up'"),
    (lambda t: trained(errors="panic"), "errors is 'panic'"),
    (lambda t: trained(pad_token=3), "pad_token is 3"),
    (lambda t: trained(model_max_length=0), "model_max_length is 0"),
    (lambda t: BloomTokenizerFast.train("one string", 300), "iterable of strings"),
    (lambda t: BloomTokenizerFast.train(["a", None], 300), "iterable of strings"),
    (lambda t: BloomTokenizerFast.train(5, 300), "iterable of strings, got 5"),
    (lambda t: BloomTokenizerFast.train(["a", "half \ud83d"], 300), "texts: half of a surrogate pair"),
    (lambda t: BloomTokenizerFast.train(["a"], 259), "vocab_size is 259, expected a whole number from 260"),
    (lambda t: BloomTokenizerFast.train(["a"], 300.0), "vocab_size is 300.0"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_input_is_one_clear_error(tokenizer, call, message):
    with pytest.raises(InputError, match=message):
        call(tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "there is no file tokenizer.json in it"),
        ("tokenizer.json", '{"version": "1.0", "mod', "tokenizer.json cannot be read"),
        ("tokenizer.json", "WordLevel", "tokenizer.json has model WordLevel"),
        ("tokenizer.json", "no ByteLevel", "pre_tokenizer NoneType"),
        ("tokenizer_config.json", "{", "tokenizer_config.json is no valid JSON"),
        ("tokenizer_config.json", '{"padding_side": "up"}', "padding_side is 'up'"),
    ],
)
def test_a_damaged_folder_is_an_error_that_names_the_file(tmp_path, tokenizer, name, content, message):
    tokenizer.save_pretrained(tmp_path)
    pipeline = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    if content == "WordLevel":
        content = json.dumps(pipeline | {"model": {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}})
    elif content == "no ByteLevel":
        content = json.dumps(pipeline | {"pre_tokenizer": None})
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        BloomTokenizerFast.from_pretrained(tmp_path)


@given(pair=st.tuples(texts, texts), limit=st.integers(1, 8), stride=st.integers(0, 7), side=sides)
@pytest.mark.parametrize("cut", ["longest_first", "only_first", "only_second"])
def test_a_pair_is_cut_to_its_limit_or_refused_with_an_input_error(pair, limit, stride, side, cut):
    """Never a panic, which is no Exception. Nothing that can be cut is refused."""
    tokenizer = CUTTING[side]
    first, second = map(len, map(tokenizer.encode, pair))
    short = min(first, second)
    left = {  # of the text that is cut to the fewest tokens
        "longest_first": limit // 2 if short > limit // 2 else limit - short,
        "only_first": limit - second,
        "only_second": limit - first,
    }[cut]
    fits = first + second <= limit or stride < left or (left == stride == 0 and cut == "longest_first")
    try:
        assert len(tokenizer.encode(*pair, truncation=cut, max_length=limit, stride=stride)) <= limit
    except InputError:
        assert not fits or stride >= limit
    else:
        assert fits


def test_what_is_left_out_says_what_to_use(tokenizer):
    for name, use in INSTEAD.items():
        assert not hasattr(tokenizer, name)
        with pytest.raises(AttributeError) as raised:
            getattr(tokenizer, name)
        assert f"Use {use}." in str(raised.value)
    with pytest.raises(AttributeError, match="has no 'pading_side'. Did you mean 'padding_side'"):
        _ = tokenizer.pading_side


def test_a_call_that_fails_leaves_nothing_behind(tokenizer):
    before = tokenizer.encode("All human beings")
    with pytest.raises(InputError):
        tokenizer("All human beings", "b", truncation="only_second", max_length=2)
    assert tokenizer.encode("All human beings") == before


# --- transformers ---


@pytest.fixture(scope="module")
def oracle(tokenizer, tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="the extra 'parity' is not installed")
    folder = tmp_path_factory.mktemp("saved-by-minibloom")
    tokenizer.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@given(
    first=st.lists(texts, min_size=1, max_size=3),
    second=st.none() | st.lists(texts, min_size=3, max_size=3),
    options=st.fixed_dictionaries(
        {
            "padding": st.sampled_from([False, True, "longest", "max_length", "do_not_pad"]),
            "truncation": st.sampled_from([True, "longest_first", False, "do_not_truncate"]),
            "return_offsets_mapping": st.booleans(),
            "return_special_tokens_mask": st.booleans(),
            "return_token_type_ids": st.booleans(),
            "return_attention_mask": st.booleans(),
            "return_length": st.booleans(),
            "return_overflowing_tokens": st.booleans(),
        },
        optional={
            "max_length": st.sampled_from([4, 8, 12]),
            "pad_to_multiple_of": st.sampled_from([2, 4]),
            "padding_side": sides,
        },
    ),
    single=st.booleans(),
    skip=st.booleans(),
)
@settings(max_examples=300)
@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
def test_calls_return_what_transformers_returns(tokenizer, oracle, first, second, options, single, skip):
    second = second and second[: len(first)]
    if single:
        first, second = first[0], second and second[0]
    if "max_length" in options and options["truncation"] is False and options["padding"] is False:
        options["truncation"] = None  # the default
    theirs = oracle(first, second, **options)
    ours = tokenizer(first, second, **options)
    assert ours == dict(theirs)
    assert [ours.word_ids(), ours.sequence_ids(), ours.tokens()] == [
        theirs.word_ids(), theirs.sequence_ids(), theirs.tokens(),
    ]  # fmt: skip
    for ids in [ours.input_ids] if isinstance(ours.input_ids[:1], list) and single else ours.input_ids:
        if isinstance(ids, list) and (not ids or isinstance(ids[0], int)):
            assert tokenizer.decode(ids, skip) == oracle.decode(ids, skip_special_tokens=skip)


def test_the_vocabulary_is_that_of_transformers(tokenizer, oracle):
    for name in ("vocab_size", "all_special_ids", "all_special_tokens", "model_max_length", "padding_side",
                 "pad_token_id", "eos_token_id", "bos_token_id", "unk_token_id"):  # fmt: skip
        assert getattr(tokenizer, name) == getattr(oracle, name), name
    assert len(tokenizer) == len(oracle)
    assert tokenizer.get_vocab() == oracle.get_vocab()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_prefix_space": True},
        {"eos_token": "<end>", "padding_side": "right"},
        {"eos_token": AddedToken("</s>", lstrip=True), "additional_special_tokens": ["<x>"]},
    ],
)
def test_transformers_reads_our_folder_and_we_read_its(tmp_path, options):
    transformers = pytest.importorskip("transformers", reason="the extra 'parity' is not installed")
    tokenizer = trained(**options)
    tokenizer.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    texts = [*CORPUS, "a </s> <x> <end> b"]
    assert theirs(texts, padding=True).data == tokenizer(texts, padding=True)
    theirs.save_pretrained(tmp_path / "theirs")
    same(BloomTokenizerFast.from_pretrained(tmp_path / "theirs"), tokenizer)
