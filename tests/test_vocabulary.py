"""Tokens and ids: nothing is lost between text and ids, and special tokens are what they are said to be."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from minibloom import BloomTokenizerFast, InputError

from .texts import texts, token_ids, trained

SHIPPED = BloomTokenizerFast.from_pretrained()


@pytest.fixture(scope="module")
def tokenizer() -> BloomTokenizerFast:
    return trained()


# --- Ids to text ---


@given(text=texts)
def test_decoding_gives_back_the_text(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.convert_tokens_to_string(tokenizer.tokenize(text)) == text


@given(ids=token_ids, skip=st.booleans())
def test_decoding_any_ids_is_what_the_tokenizers_library_does(tokenizer, ids, skip):
    assert tokenizer.decode(ids, skip_special_tokens=skip) == tokenizer._backend.decode(ids, skip)
    assert tokenizer.batch_decode([ids, numpy.array(ids, int)], skip_special_tokens=skip) == 2 * [
        tokenizer._backend.decode(ids, skip)
    ]


@given(ids=token_ids, skip=st.booleans(), errors=st.sampled_from(["replace", "ignore", "backslashreplace"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stream_shows_the_same_text_as_decode(tokenizer, monkeypatch, ids, skip, errors):
    monkeypatch.setattr(tokenizer, "errors", errors)
    stream = tokenizer.stream(skip_special_tokens=skip)
    assert "".join(map(stream.put, ids)) + stream.end() == tokenizer.decode(ids, skip_special_tokens=skip)


@given(text=texts)
def test_a_stream_never_shows_half_a_character(tokenizer, text):
    stream, shown = tokenizer.stream(skip_special_tokens=False), ""
    for token_id in tokenizer.encode(text):
        shown += stream.put(token_id)
        assert text.startswith(shown)
    assert shown == text and stream.end() == ""


def test_a_character_that_breaks_off_is_replaced_at_the_end(tokenizer):
    stream = tokenizer.stream()
    assert [stream.put(token_id) for token_id in tokenizer.encode("😀")[:-1]] == ["", "", ""]
    assert stream.end() == "\ufffd"


def test_errors_says_what_becomes_of_bytes_that_are_no_text(tokenizer):
    half = tokenizer.encode("😀")[:2]
    assert tokenizer.decode(half) == "\ufffd"
    assert trained(errors="ignore").decode(half) == ""
    with pytest.raises(UnicodeDecodeError):
        trained(errors="strict").decode(half)


def test_clean_up_drops_spaces_before_punctuation(tokenizer):
    ids = tokenizer.encode("Yes , I do n't . We 've !")
    assert tokenizer.decode(ids) == "Yes , I do n't . We 've !"
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=True) == "Yes, I don't. We've!"
    assert trained(clean_up_tokenization_spaces=True).decode(ids) == "Yes, I don't. We've!"


def test_an_added_token_is_text_as_it_stands():
    tokenizer = trained(additional_special_tokens=["<naïve Ġ>"])
    text = "x<naïve Ġ>y"
    assert len(tokenizer) == tokenizer.vocab_size + 1
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == "xy"
    tokenizer._backend.add_tokens(["<plain>"])  # not special: never skipped
    tokenizer = BloomTokenizerFast(tokenizer_object=tokenizer._backend)
    assert tokenizer.decode(tokenizer.encode("x<plain></s>"), skip_special_tokens=True) == "x<plain>"


@given(text=texts)
def test_decoding_gives_back_the_text_of_the_tokenizer_that_ships(text):
    assert SHIPPED.decode(SHIPPED(text).input_ids) == text


@given(tokens=st.lists(texts.filter(len), min_size=1, max_size=4), special=st.booleans(), data=st.data())
def test_decoding_gives_back_a_text_with_added_tokens(tokens, special, data):
    tokenizer = trained()
    learned = tokenizer.get_vocab()
    tokens = [token for token in tokens if token not in learned]
    assert tokenizer.add_tokens(tokens, special) == len(set(tokens))
    text = "".join(data.draw(st.lists(texts | st.sampled_from(tokens or [""]), max_size=6)))
    assert tokenizer.decode(tokenizer.encode(text)) == text


# --- Tokens, special and added ---


def test_names_and_ids_of_the_vocabulary(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) == len(tokenizer) == tokenizer.vocab_size == 400
    assert sorted(vocabulary.values()) == list(range(400))
    named = [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert named == [0, 1, 2, 3] and sorted(tokenizer.all_special_ids) == named
    assert tokenizer.convert_ids_to_tokens([1, 2, 4], skip_special_tokens=True) == ["!"]
    assert tokenizer.convert_tokens_to_ids(["!", "no such token"]) == [4, 0]
    assert tokenizer.convert_ids_to_tokens(numpy.int64(vocabulary["Ġand"])) == "Ġand"


def test_special_tokens_can_be_renamed_left_out_and_set(tokenizer):
    more = trained(eos_token="<end>", additional_special_tokens=["<b>", "<a>"])
    assert more.all_special_tokens == ["<s>", "<end>", "<unk>", "<pad>", "</s>", "<b>", "<a>"]
    changed = trained(pad_token=None, eos_token="<end>")
    assert changed.pad_token_id is None and changed.eos_token_id == 400
    with pytest.raises(InputError, match="pad_token"):
        changed(["a", "a, b"], padding=True)
    changed.pad_token = changed.eos_token
    assert changed("a", padding="max_length", max_length=2).input_ids[0] == 400
    changed.pad_token = "<nowhere>"
    with pytest.raises(InputError, match=r"pad_token is '<nowhere>'"):
        _ = changed.pad_token_id


def test_setting_an_id_sets_the_token(tokenizer):
    changed = trained()
    changed.pad_token_id = changed.eos_token_id
    assert changed.pad_token == "</s>" and changed("a", padding="max_length", max_length=2).input_ids[0] == 2
    changed.pad_token_id = None
    assert changed.pad_token is None and changed.pad_token_id is None
    with pytest.raises(InputError, match="id 400 is not in the vocabulary"):
        changed.pad_token_id = 400


def test_a_token_that_is_not_there_says_how_to_add_it(tokenizer):
    changed = trained()
    changed.pad_token = "[PAD]"
    with pytest.raises(InputError) as raised:
        changed("a", padding=True)
    assert str(raised.value).endswith("Add it: tokenizer.add_special_tokens({\"pad_token\": '[PAD]'}).")
    assert changed.add_special_tokens({"pad_token": "[PAD]"}) == 1
    assert changed("a", padding="max_length", max_length=2).input_ids[0] == 400


def test_flags_of_an_added_token_are_kept():
    left, right = AddedToken("</s>", lstrip=True), AddedToken("<x>", rstrip=True)
    tokenizer = trained(eos_token=left, additional_special_tokens=[right])
    assert tokenizer.eos_token == "</s>" and tokenizer.additional_special_tokens == ["<x>"]
    assert tokenizer.tokenize("a  </s>b<x>  a") == ["a", "  </s>", "b", "<x>  ", "a"]
    named = {"eos_token": "</s>", "additional_special_tokens": ["<x>"]}  # as files name them, without flags
    again = BloomTokenizerFast(tokenizer_object=tokenizer._backend, **named)
    assert again.tokenize("a  </s>b<x>  a") == ["a", "  </s>", "b", "<x>  ", "a"]
    plain = BloomTokenizerFast(tokenizer_object=tokenizer._backend, eos_token=AddedToken("</s>"))
    assert plain.encode("a  </s>") == trained().encode("a  </s>")


def test_a_token_that_was_learned_is_read_as_bytes_even_if_it_is_special():
    tokenizer = trained(eos_token="Ċ")
    assert tokenizer.eos_token_id == tokenizer.encode("\n")[0]
    assert tokenizer.decode(tokenizer.encode("a\nb")) == "a\nb"


def test_special_tokens_are_added_all_or_none():
    tokenizer = trained(additional_special_tokens=["<x>"])
    more = "additional_special_tokens"
    for wrong, message in (
        ({"sep_token": "<z>"}, f"BLOOM has no 'sep_token', expected bos_token, .* or '{more}' with a list of others"),
        ({"eos_token": None}, "eos_token is None, expected a string, not empty"),
        ({more: "<z>"}, f"{more} is '<z>', expected a list"),
        ({more: ["<z>", 3]}, f"{more} is 3, expected a string"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizer.add_special_tokens({"pad_token": "<y>"} | wrong)
    with pytest.raises(InputError, match="new_tokens is 3, expected a string"):
        tokenizer.add_tokens(["<y>", 3])
    assert tokenizer.pad_token == "<pad>" and len(tokenizer) == 401 and tokenizer.get_added_vocab()["<x>"] == 400
    assert tokenizer.add_special_tokens({more: ["<x>", "<y>"]}) == 1
    assert tokenizer.add_special_tokens({more: ["<z>"]}, replace_additional_special_tokens=False) == 1
    assert tokenizer.special_tokens_map[more] == ["<x>", "<y>", "<z>"]
    assert tokenizer.decode([400, 68, 402], skip_special_tokens=True) == "a"
