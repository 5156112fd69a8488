"""Small tokenizers, and texts to try them on, for the tests of everything that has to do with text."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from minibloom import BloomTokenizerFast

CORPUS = [
    "All human beings are born free and equal in dignity and rights. They are endowed with reason, can't they?",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心",
    "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق، وقد وهبوا عقلاً",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "def main():\n    return [x for x in range(10) if x | 1]\n\tpass",
]

characters = st.characters(exclude_categories=["Cs"])  # any Unicode but surrogates, which are no characters
hard = st.sampled_from([*" \n\t,.!?()|[]'’…。，、।۔،aбあ한é😀", "\u200d", "  ", " human", "</s>", "<pad>", "\r\n"])
texts = st.lists(characters | hard, max_size=20).map("".join)
token_ids = st.lists(st.integers(0, 399), max_size=30)
sides = st.sampled_from(["left", "right"])


def trained(**options: Any) -> BloomTokenizerFast:
    tokenizer = BloomTokenizerFast.train(CORPUS * 2, 400)
    return BloomTokenizerFast(tokenizer_object=tokenizer._backend, **options) if options else tokenizer
