"""The recipe's text: what is kept of the declaration's HTML and of a package's source files. No network."""

import os
from html import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom.errors import InputError
from minibloom.pretrained import corpus

PAGE = """<!doctype html>
<html lang="en"><head><title>English</title></head><body>
  <h1>Declaration</h1>
  <header><h2>Preamble</h2><p>Whereas this,</p><p>Now, therefore</p></header>
  <article data-number="1"><h2>Article 1</h2>
    <p>All human
       beings &amp; others.</p></article>
  <article data-number="2"><h2>Article 2</h2>
    <ol><li><p>First.</p></li><li>Second.</li></ol></article>
</body></html>"""


def test_paragraphs_and_list_items_without_headings():
    assert corpus.parse_declaration(PAGE) == {
        0: "Whereas this,\nNow, therefore",
        1: "All human beings & others.",
        2: "First.\nSecond.",
    }


# Any letters, combining marks and joiners included: spelling is not ours to normalise. Not the white space
# that HTML collapses, nor digits, which could look like a list item's number.
words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Nd", "Zs")), min_size=1).filter(lambda w: "&" not in w)
paragraph = st.lists(words, min_size=1, max_size=5)


@given(st.lists(paragraph, min_size=1, max_size=4))
def test_text_survives_unnormalised_but_for_white_space(paragraphs):
    body = "".join("<p>\n    " + escape("\n   ".join(words)) + " </p>" for words in paragraphs)
    html = f'<article data-number="7"><h2>Article 7</h2>{body}</article>'
    assert corpus.parse_declaration(html) == {7: "\n".join(" ".join(words) for words in paragraphs)}


def test_no_break_space_is_kept():
    html = '<article data-number="1"><p>libres&#xA0;: tous</p></article>'
    assert corpus.parse_declaration(html) == {1: "libres\u00a0: tous"}


@pytest.mark.parametrize("debris", ["&#x26;1", "Xiphemu xa 25"])
def test_lines_that_are_no_text_are_dropped(debris):
    html = f'<article data-number="24"><h2>{"word " * 30}</h2><p>{debris}</p><p>2. Then.</p></article>'
    assert corpus.parse_declaration(html) == {24: ("word " * 30).strip() + "\nThen."}


def test_every_version_of_the_declaration_is_used_once():
    assert len(corpus.VERSIONS) == 42
    codes = [code for codes in corpus.VERSIONS.values() for code in codes]
    assert len(codes) == len(set(codes))


def test_article_thirty_is_held_out_of_every_version(tmp_path):
    page = "<header><p>Whereas</p></header>" + "".join(
        f'<article data-number="{n}"><h2>Article {n}</h2><p>Text {n}.</p></article>' for n in range(1, 31)
    )
    codes = [code for codes in corpus.VERSIONS.values() for code in codes]
    corpus._write_declaration({f"package/declaration/{code}.html": page.encode() for code in codes}, tmp_path)

    train = [file.name for file in (tmp_path / "train").rglob("*.txt")]
    validation = [file.relative_to(tmp_path / "validation/udhr") for file in (tmp_path / "validation").rglob("*.txt")]
    assert "30.txt" not in train and train.count("01.txt") == len(codes)
    assert sorted(map(str, validation)) == sorted(f"{language}/30.txt" for language in corpus.VERSIONS)
    assert corpus.article_one(tmp_path) == dict.fromkeys(corpus.VERSIONS, "Text 1.")


LICENCE = "Copyright the authors. " + "Licensed to you under some licence. " * 8


@pytest.mark.parametrize(
    ("source", "stripped"),
    [
        (f"/* {LICENCE} */\n\nint x;\n", "int x;\n"),
        (f"// {LICENCE}\n// more\npackage x\n", "package x\n"),
        (f"<?php declare(strict_types=1);\n\n/* {LICENCE} */\nuse X;\n", "<?php declare(strict_types=1);\n\nuse X;\n"),
        ("// Copyright, short\nint x;\n", "// Copyright, short\nint x;\n"),
        (f"/* {'What this does. ' * 20} */\nint x;\n", f"/* {'What this does. ' * 20} */\nint x;\n"),
        (f"int x;\n/* {LICENCE} */\n", f"int x;\n/* {LICENCE} */\n"),
    ],
)
def test_only_a_long_licence_at_the_start_is_stripped(source, stripped):
    assert corpus.strip_licence(source) == stripped


@given(st.lists(st.integers(0, 20_000), min_size=2, max_size=20), st.randoms())
def test_choice_is_whole_files_held_out_apart_and_independent_of_order(sizes, random):
    files = {f"{n:02}.c": chr(97 + n) * size for n, size in enumerate(sizes)}
    if sum(size in corpus.FILE_BYTES for size in sizes) < 2:
        with pytest.raises(InputError, match="usable size"):
            corpus.choose(files)
        return
    train, held_out = corpus.choose(files)
    assert held_out in files.values() and set(train) <= set(files.values()) - {held_out}
    assert sum(map(len, train)) <= corpus.TRAIN_BYTES
    shuffled = list(files.items())
    random.shuffle(shuffled)
    assert corpus.choose(dict(shuffled)) == (train, held_out)


def test_source_lists_of_both_formats_gain_source_packages():
    assert corpus.with_sources("Types: deb\nURIs: x\n") == "Types: deb deb-src\nURIs: x\n"
    assert corpus.with_sources("deb x y main\n# deb\n") == "deb x y main\n# deb\ndeb-src x y main\n"


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        corpus.write_corpus(tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_a_missing_client_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"`npm` is not on the PATH.*install Node\.js"):
        corpus.write_corpus(tmp_path / "corpus")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_no_corpus_is_named(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        corpus.article_one(tmp_path)
