"""What notebooks show: complete, escaped, well-formed, in the page's own colours; and texts that stay short."""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, BloomForSequenceClassification, Trace, walk
from minibloom.display import STATISTICS, columns, kind, short, statistics, table, unbroken
from minibloom.outputs import ModelOutput
from minibloom.trace import SHORT, formula, step
from minibloom.walk import Walk

from . import tiny
from .strategies import few, models, random_model, token_ids

CONFIG = BloomConfig(vocab_size=13, hidden_size=12, n_layer=3, n_head=3)
MODEL = random_model(CONFIG, 0, "float32")
IDS = numpy.array([[1, 2, 3, 4]])
TRICKY = "<b>&\"'</td>כל בני האדם ولد 人 \u202e 😀 \n"


class Page(HTMLParser):
    """The cells of every table, row by row; which <details> are open; an error where a tag is not closed."""

    def __init__(self, shown: Any) -> None:
        super().__init__()
        self.source, self.stack, self.rows, self.open, self.text = shown._repr_html_(), [], [], [], ""
        self.feed(self.source)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack.append(tag)
        names = dict(attrs)
        assert tag in ["table", "thead", "tbody", "tr", "th", "td", "code", "bdi", "b", "p", "details", "summary"], tag
        assert set(names) <= ({"open"} if tag == "details" else {"style"} if tag in ("td", "th") else set())
        assert names.get("style", "text-align: left") == "text-align: left"  # no colours: the page has its own
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "details":
            self.open.append("open" in names)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.stack):
            self.rows[-1][-1] += data


def rows(shown: Any) -> dict[str, list[str]]:
    """The rows of its tables by their first cell."""
    return {row[0]: row[1:] for row in Page(shown).rows}


# --- traces ---


@few
@given(models(), st.data())
def test_a_trace_shows_every_step_with_all_that_the_terminal_says(model, data):
    trace = Trace()
    model(data.draw(token_ids(model.config)), trace=trace)
    shown = rows(trace)
    assert [name for name in shown if name != "step"] == list(trace)
    for name, x in trace.items():
        said, axes, shape, dtype, *values = shown[name]
        assert (said, shape, dtype) == (formula(name), unbroken(list(x.shape)), str(x.dtype))
        assert axes.split() == step(name).axes.split() and values == (statistics(x) or ["all masked"])


def test_a_long_trace_has_its_blocks_folded_but_for_the_first():
    trace = Trace()
    MODEL(IDS, trace=trace)
    page = Page(trace)
    assert len(trace) > SHORT and page.open == [True, False, False]
    assert all(f"h.{i}: 16 steps" in page.text for i in range(3))
    MODEL(IDS, trace=(later := Trace("*.2.*", "*.1.*")))
    assert Page(later).open == [True, False]  # the first that there is


def test_a_short_trace_is_one_table_and_an_empty_one_says_so():
    trace = Trace("*.probs")
    assert Page(trace).text == "Trace(0 steps)"
    MODEL(IDS, trace=trace)
    page = Page(trace)
    assert page.open == [] and page.source.count("<table>") == 1 and len(page.rows) == 4


def test_what_cancels_to_rounding_has_the_mean_0():
    x = numpy.array([1, -1, 1e-9], "float32")
    assert dict(zip(STATISTICS, statistics(x), strict=True))["mean"] == "+0"
    assert statistics(numpy.array([1e-9, 3e-9]))[0] == "+2e-09"
    assert statistics(numpy.array([1, 123456])) == ["+6.17e+04", "6.17e+04", "+1", "+123456"]
    assert statistics(numpy.array([numpy.finfo("float32").min], "float32")) == []


# --- models and their configurations ---


@pytest.mark.parametrize("kind", [BloomForCausalLM, BloomForSequenceClassification])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_shows_all_its_parameters_by_block(kind, tied):
    config = CONFIG.replace(tie_word_embeddings=tied)
    model = kind(config)
    shown, page = rows(model), Page(model)
    for name, x in model.params.items():
        assert shown[name] == [str(list(x.shape)), f"{x.size:,}"]
    assert shown["parameters"] == [f"{model.num_parameters():,}"] and shown["heads, H"] == ["3"]
    assert page.open == [True, False, False] and page.text.startswith(kind.__name__)
    blocks = [int(n.replace(",", "")) for n in re.findall(r"h\.\d: ([\d,]+) parameters", page.text)]
    assert blocks == [sum(x.size for name, x in model.params.items() if name.startswith(f"h.{i}.")) for i in range(3)]


def test_a_model_with_small_weights_or_on_disk_shows_itself_without_reading_them(tmp_path):
    tiny.checkpoint(tmp_path)
    small = BloomForCausalLM.from_pretrained(tmp_path, weights="int8")
    assert rows(small)["keeps weights as"] == ["int8"]
    streamed = BloomForCausalLM.from_pretrained(tmp_path, stream=True)
    assert rows(streamed)["h.1.mlp.dense_h_to_4h.weight"] == ["[128, 32]", "4,096"]


def test_a_configuration_marks_what_is_not_the_default():
    config = BloomConfig.from_dict({"hidden_size": 96, "unk_token_id": 0, "seq_length": "<2048>"})
    shown, source = rows(config), Page(config).source
    assert [name for name in shown if name != "field"] == list(config.to_dict())
    assert shown["hidden_size"] == ["96", "64"] and shown["n_head"] == ["8", ""]
    assert shown["seq_length"] == ["'<2048>'", "not a field of BLOOM's"]
    marked = re.findall(r"<b><code><bdi>(\w+)</bdi></code></b>", source)
    assert marked == ["hidden_size", "unk_token_id", "seq_length"]


# --- outputs ---


def outputs() -> list[ModelOutput]:
    call = {"output_hidden_states": True, "output_attentions": True}
    generated = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_scores": True, **call}
    return [
        MODEL(IDS, labels=IDS, **call),
        BloomForSequenceClassification(CONFIG)(IDS, labels=[1]),
        MODEL.generate(IDS, **generated),
        MODEL.generate(IDS, num_beams=2, **generated),
    ]


def test_an_output_shows_its_fields_and_no_array_is_printed_whole():
    large = BloomForCausalLM(CONFIG.replace(vocab_size=5000))(numpy.ones((2, 50), int), output_hidden_states=True)
    for out in (*outputs(), large):
        shown = rows(out)
        assert [name for name in shown if name != "field"] == out.keys()
        for name, value in out.items():
            assert name in repr(out)
            if hasattr(value, "shape") and value.shape:
                assert shown[name] == [kind(value), *statistics(value)] and kind(value) in repr(out)
        assert len(repr(out)) < 400 and "\n" not in repr(out) and Page(out).text.startswith(type(out).__name__)


def test_what_outputs_say_of_a_value():
    out = outputs()[0]
    assert short(out.loss) == f"{float(out.loss):.6g}"
    assert short(out.hidden_states) == "4 times float32[1, 4, 12]"
    assert short((IDS, IDS[:, :1])) == "2 arrays, int64[1, 4] to int64[1, 1]"
    assert short(((IDS, IDS), (IDS, IDS))) == "2 times 2 arrays"
    assert short(out.past_key_values) == repr(out.past_key_values)


# --- walks ---


def test_a_walk_shows_tokens_steps_and_what_comes_next():
    result = walk("the cat", random_model(tiny.config(), 0, "float32"), tiny.tokenizer(), top=3)
    shown = rows(result)
    assert [shown[str(i)] for i in range(len(result.tokens))] == [[repr(t)] for t in result.tokens]
    assert set(result.trace) <= shown.keys()
    following = [[repr(token), f"{p:.1%}", "█" * round(40 * p)] for token, p in result.next_tokens]
    assert Page(result).rows[-3:] == following


def test_text_of_any_script_is_shown_as_it_is_and_never_read_as_html():
    page = Page(Walk([TRICKY, "</table>"], Trace(), [(TRICKY, 0.5)]))
    assert page.text.count(repr(TRICKY)) == 2 and repr("</table>") in page.text
    assert page.source.count(f"<code><bdi>{escape(repr(TRICKY))}</bdi></code>") == 2
    assert "<b>" not in page.source and page.source.count("</table>") == page.source.count("<table>")


def test_names_of_columns_and_plain_cells_are_escaped_too():
    assert table(["<a>"], [["<b>", 1]]).count("&lt;") == 2


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [("work", "median", ""), ("a", "1", ""), ("long work", "10", "ok")]
    assert columns(rows).split("\n") == ["work       median", "a          1", "long work  10      ok"]
    assert columns(rows, right=[1]).split("\n") == ["work       median", "a               1", "long work      10  ok"]
