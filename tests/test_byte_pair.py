"""How a text is cut into tokens: the pieces, the symbols and the ids of the real BLOOM, and learning one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given

from minibloom import BloomTokenizerFast, byte_pair
from minibloom.byte_pair import BYTE_OF, LONGEST, SPLIT, _strings, learn

from .texts import texts, trained

PUBLISHED = json.loads((Path(__file__).parent / "data" / "published_tokens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> BloomTokenizerFast:
    return trained()


def test_the_256_symbols_are_those_of_the_tokenizers_library():
    from tokenizers import pre_tokenizers

    assert set(BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_OF.values()) == list(range(256))
    assert BYTE_OF["Ġ"] == ord(" ") and BYTE_OF["Ċ"] == ord("\n")


# --- Learning ---


@pytest.mark.parametrize("long", ["x", "ab", "\n \t", ".", "人", " word. " + "z" * 5000])
def test_a_text_without_a_space_is_learned_from_in_parts(tokenizer, monkeypatch, long):
    """One piece of a million characters took minutes: each merge read all of it."""
    text, learned_from = "An ordinary text, " * LONGEST + (long * (3 * LONGEST))[: 3 * LONGEST] + " end", []
    monkeypatch.setattr(byte_pair, "_strings", lambda texts: keep(learned_from, _strings(texts)))
    learned = learn([text], 270)
    assert "".join(learned_from) == text and learned_from[0].startswith("An ordinary text, " * LONGEST)
    split = tokenizer._backend.pre_tokenizer.pre_tokenize_str
    longest = max(end - begin for part in learned_from for _, (begin, end) in split(part))
    assert LONGEST <= longest <= LONGEST + 1  # with the space before it
    assert learned.decode(learned.encode(text).ids) == text  # what is read is not cut


def keep(kept: list[str], parts: Iterator[str]) -> Iterator[str]:
    for part in parts:
        kept.append(part)
        yield part


# --- What the real BLOOM does, as published ---


@given(text=texts)
def test_pieces_are_runs_with_one_space_and_what_lies_between(tokenizer, text):
    import re

    # The same pattern as a plain character class. Python alone counts \x1c to \x1f as white space.
    runs = re.compile(r" ?[^\s(|).,!?…。，、।۔،]+")
    text = text.translate(dict.fromkeys(range(0x1C, 0x20)))
    expected, end = [], 0
    for match in runs.finditer(text):
        expected += [(end, match.start())] * (end < match.start()) + [match.span()]
        end = match.end()
    expected += [(end, len(text))] * (end < len(text))
    assert [span for _, span in tokenizer._backend.pre_tokenizer.pre_tokenize_str(text)] == expected


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> BloomTokenizerFast:
    """BLOOM's own tokenizer.json as far as it is published: its pipeline, and 241 of 250,680 tokens without merges.

    A piece that is one of those tokens gets its id.
    """
    folder = tmp_path_factory.mktemp("published")
    model = {"vocab": PUBLISHED["vocabulary"], "merges": [], "ignore_merges": True}
    content = PUBLISHED["pipeline"] | {"model": PUBLISHED["pipeline"]["model"] | model}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return BloomTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("case", PUBLISHED["cases"], ids=lambda case: repr(case["text"][:20]))
def test_published_ids_decode_to_the_published_text(published, case):
    assert published.decode(case["ids"]) == case["text"]


@pytest.mark.parametrize("case", PUBLISHED["cases"], ids=lambda case: repr(case["text"][:20]))
def test_published_tokens_end_where_our_pieces_end(published, case):
    ends, at = {0}, 0
    for token in published.convert_ids_to_tokens(case["ids"]):
        at += len(token)
        ends.add(at)
    at = 0
    for piece, special in pieces(published, case["text"]):
        at += len(piece)
        assert at in ends
        if special or piece in PUBLISHED["vocabulary"]:  # a piece that is a token is that token
            assert not any(at - len(piece) < end < at for end in ends)


def test_published_ids_come_out_where_every_piece_is_a_known_token(published):
    """That is so in 20 of 39 cases, and of 173 of 256 pieces.

    The other 83 pieces are several tokens each. Which, only the merges say, and nobody has published them: of those
    pieces the tests above check where they begin and end, and that their tokens decode to them.
    """
    known, cut = [], []
    for case in PUBLISHED["cases"]:
        of_case = [piece for piece, _ in pieces(published, case["text"])]
        cut += of_case
        known += [case] * all(piece in PUBLISHED["vocabulary"] for piece in of_case)
    assert (len(known), len(PUBLISHED["cases"])) == (20, 39)
    assert (sum(piece in PUBLISHED["vocabulary"] for piece in cut), len(cut)) == (173, 256)
    for case in known:
        assert published.encode(case["text"]) == case["ids"]


def pieces(tokenizer: BloomTokenizerFast, text: str) -> list[tuple[str, bool]]:
    """Steps 1 to 3: the pieces of `text` in symbols, and whether each is a special token."""
    import re

    parts = re.split("(<s>|</s>|<pad>|<unk>)", text)
    found = []
    for i, part in enumerate(parts):
        cut = tokenizer._backend.pre_tokenizer.pre_tokenize_str(part)
        found += [(part, True)] if i % 2 else [(piece, False) for piece, _ in cut]
    return found


def test_the_pipeline_is_that_of_the_published_file(tokenizer):
    pipeline = json.loads(tokenizer._backend.to_str())
    real = PUBLISHED["pipeline"]
    assert pipeline["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == SPLIT
    for part in ("normalizer", "pre_tokenizer", "post_processor", "added_tokens", "truncation", "padding"):
        assert pipeline[part] == real[part]
    assert pipeline["decoder"] == real["decoder"] | {"use_regex": True}  # which decoding never reads
    assert pipeline["model"] == pipeline["model"] | real["model"]  # and vocabulary, merges, and what came later
    assert tokenizer.tokenize("a(b)|c [d]") == ["a", "(", "b", ")", "|", "c", "Ġ", "[", "d", "]"]
    assert [piece for piece, _ in pieces(tokenizer, "a(b)|c [d]")] == ["a", "(", "b", ")|", "c", "Ġ[d]"]


# --- Learning ---


def test_training_is_repeatable_and_holds_every_byte(tokenizer):
    assert trained().get_vocab() == tokenizer.get_vocab()
    smallest = BloomTokenizerFast.train(iter(["abab"]), 260)
    assert len(smallest) == 260 and set(BYTE_OF) < set(smallest.get_vocab())
    assert smallest.decode(smallest.encode("人人 生")) == "人人 生"
    assert len(BloomTokenizerFast.train(["ab cd"], 300)) == 260  # no pair occurs twice
    assert len(BloomTokenizerFast.train(["ab cd", "ab"], 300)) == 261
