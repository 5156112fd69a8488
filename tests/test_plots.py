"""Pictures: they hold the arrays that they were given, tokens in every script, and legible colours on any page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import unicodedata

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomForCausalLM, BloomTokenizerFast, InputError, Trace, plots
from minibloom.layers.alibi import alibi_slopes
from minibloom.layers.softmax import softmax
from minibloom.lens import lens

from .strategies import few, seeds

TEXTS = ("All human beings\nare born", "يولد جميع الناس", "सभी मनुष्यों को", "人人生而自由", "x\t= 2")


@pytest.fixture(scope="module")
def shipped():
    return BloomForCausalLM.from_pretrained(), BloomTokenizerFast.from_pretrained()


@pytest.fixture(scope="module")
def seen(shipped):
    """Ids, trace and gradients of a text."""
    model, tokenizer = shipped
    ids, trace = tokenizer("All human beings are born")["input_ids"], Trace()
    _, grads = model.value_and_grad([ids], labels=[ids], trace=trace)
    return ids, trace, grads


@pytest.fixture
def dark():
    plots.use("dark")
    yield
    plots.use("light")


def written(figure):
    """What is written in a picture, as a browser finds it."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", figure._repr_svg_())


def images(figure):
    return [ax.images[0].get_array() for ax in figure.axes if ax.images]


# --- Tokens ---


@few
@given(st.sampled_from(TEXTS))
def test_labels_write_every_token_so_that_the_text_can_be_read_off(text):
    tokenizer = BloomTokenizerFast.from_pretrained()
    ids = tokenizer(text)["input_ids"]
    read = b""
    for one in plots.labels(tokenizer, ids):
        bytes_in_hex = re.fullmatch(r"[0-9A-F]{2}( [0-9A-F]{2})*", one)
        shown = one.replace("·", " ").replace("⏎", "\n").replace("⇥", "\t").replace("\u200f", "")
        read += bytes.fromhex(one) if bytes_in_hex else shown.encode()
    assert read.decode() == text


def test_a_token_that_reads_from_the_right_has_its_space_at_the_right(shipped):
    tokenizer = shipped[1]
    one = next(i for i in tokenizer("يولد جميع الناس")["input_ids"] if tokenizer.decode([i]).startswith(" "))
    label = plots.label(tokenizer, one)
    assert label[0] == "\u200f"  # a mark that is right-to-left itself
    assert label[1] == "·"


@pytest.mark.parametrize("text", TEXTS)
def test_labels_stay_text_in_every_script(shipped, text):
    model, tokenizer = shipped
    ids = tokenizer(text)["input_ids"]
    weights = model([ids], output_attentions=True).attentions[0][0]
    names = plots.labels(tokenizer, ids)
    shown = written(plots.attention(weights, names, heads=[0]))
    assert {unicodedata.normalize("NFC", name) for name in names} <= {unicodedata.normalize("NFC", t) for t in shown}


def test_a_token_with_a_dollar_is_no_formula(shipped):
    for tokens in (["$a", "b$"], ["$a$", "$\\frac$"]):
        assert set(tokens) <= set(written(plots.attention(numpy.eye(2), tokens)))


def test_labels_that_are_too_many_are_left_out_and_a_wrong_number_is_an_error():
    T = plots.MANY + 1
    assert "t0" not in written(plots.attention(numpy.eye(T), [f"t{i}" for i in range(T)]))
    with pytest.raises(InputError, match="3 labels were given for 2 positions"):
        plots.attention(numpy.eye(2), ["a", "b", "c"])


# --- Arrays ---


@few
@given(seeds, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3))
def test_attention_shows_the_weights_and_nothing_of_the_future(seed, heads, S, past):
    weights = softmax(numpy.random.default_rng(seed).standard_normal((heads, S, past + S)))
    shown = images(plots.attention(weights))
    assert len(shown) == heads
    for image, w in zip(shown, weights, strict=True):
        seen = numpy.arange(past + S) <= numpy.arange(past, past + S)[:, None]
        assert (~numpy.ma.getmaskarray(image) == seen).all()
        numpy.testing.assert_array_equal(image[seen], w[seen])


def test_attention_of_chosen_heads():
    weights = numpy.stack([numpy.eye(3) * head for head in range(4)])
    figure = plots.attention(weights, heads=[3, 1])
    assert [image.max() for image in images(figure)] == [3, 1]
    assert "head 3" in written(figure)
    with pytest.raises(InputError, match=r"expected 2 or 3 axes\. Take one row of the batch: weights\[0\]"):
        plots.attention(numpy.ones((1, 4, 3, 3)))
    for one in (2, numpy.int64(2)):
        assert [image.max() for image in images(plots.attention(weights, heads=one))] == [2]
    with pytest.raises(InputError, match="heads are \\[4\\], expected numbers from 0 to 3"):
        plots.attention(weights, heads=[4])


@pytest.mark.parametrize("heads", [1, 6, 8])
def test_alibi_shows_each_head_s_bias_by_distance(heads):
    shown = images(plots.alibi(heads, 5))
    for image, slope in zip(shown, alibi_slopes(heads, numpy), strict=True):
        assert image[4, 4] == 0
        assert image[4, 1] == pytest.approx(-3 * slope)
    assert written(plots.alibi_slopes_of(heads))


def test_the_logit_lens_shows_the_likeliest_of_each_state(shipped, seen):
    (model, tokenizer), (_, trace, _) = shipped, seen
    shown = written(plots.logit_lens(model, trace, tokenizer))
    for state in lens(model, trace):
        assert plots.label(tokenizer, int(state[-1].argmax())) in shown
    assert "embedding" in shown


def test_the_residual_stream_is_the_norms_of_the_states(shipped, seen):
    (_, tokenizer), (ids, trace, _) = shipped, seen
    (image, *_) = images(plots.residual_stream(trace, plots.labels(tokenizer, ids)))
    numpy.testing.assert_allclose(image[0], numpy.linalg.norm(trace["word_embeddings_layernorm"][0], axis=-1))
    numpy.testing.assert_allclose(image[-1], numpy.linalg.norm(trace["h.3"][0], axis=-1))


def test_next_tokens_are_the_likeliest_in_order(shipped, seen):
    (_, tokenizer), (_, trace, _) = shipped, seen
    logits = trace["lm_head"][0, -1]
    (ax,) = plots.next_tokens(logits, tokenizer, top=4).axes
    widths = [bar.get_width() for bar in ax.patches]
    numpy.testing.assert_allclose(widths, numpy.sort(softmax(logits.astype("float64")))[::-1][:4])


def test_gradient_flow_has_a_point_for_each_weight(seen):
    _, _, grads = seen
    (ax,) = plots.gradient_flow(grads).axes
    points = numpy.concatenate([line.get_ydata() for line in ax.lines])
    weights = [grads[name] for name in grads if name.endswith("weight")]
    numpy.testing.assert_allclose(
        sorted(points), sorted(numpy.sqrt((g.astype("float64") ** 2).mean()) for g in weights)
    )
    with pytest.raises(InputError, match="no gradient of a block's weight"):
        plots.gradient_flow({})


def test_curves_are_told_apart_without_colour():
    curves = {name: ([1, 2], [3, i]) for i, name in enumerate("abcd")}
    (ax,) = plots.lines(curves, "x", "y").axes
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 4
    (ax,) = plots.losses({name: zip(*xy, strict=True) for name, xy in curves.items()}).axes
    assert len({line.get_linestyle() for line in ax.lines}) == 4
    left, right = plots.cache([1, 2], [2**20, 2**21], [0.001, 0.001], [0.001, 0.002]).axes
    assert [*left.lines[0].get_ydata()] == [1, 2]
    assert len(right.lines) == 2


# --- Pages ---


def luminance(colour: str) -> float:
    """By the Web Content Accessibility Guidelines, which ask that two colours contrast 4.5 to 1 at least."""
    parts = numpy.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float(
        numpy.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    )


@pytest.mark.parametrize("theme", plots.THEMES)
def test_text_stands_out_from_the_ground(theme):
    ink, ground = sorted(map(luminance, plots.THEMES[theme]))
    assert (ground + 0.05) / (ink + 0.05) >= 4.5


def test_dark_pages(dark):
    svg = plots.lines({"a": ([1], [2])}, "x", "y")._repr_svg_()
    ink, ground = plots.THEMES["dark"]
    assert ground in svg
    assert plots.THEMES["light"][1] not in svg
    assert ink in svg


def test_an_unknown_theme_suggests_the_nearest():
    with pytest.raises(InputError, match="'drak'.*Did you mean 'dark'"):
        plots.use("drak")


def test_the_same_arrays_give_the_same_file():
    first, second = (plots.attention(numpy.eye(3), ["a", "b", "c"])._repr_svg_() for _ in range(2))
    assert first == second


def test_settings_of_matplotlib_are_left_as_they_were():
    code = (
        "import matplotlib, json; before = dict(matplotlib.rcParams); from minibloom import plots; "
        "plots.use('dark'); plots.alibi(4, 5)._repr_svg_(); print(json.dumps(before == dict(matplotlib.rcParams)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)


def test_without_matplotlib_one_line_says_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None\nfrom minibloom import plots"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install matplotlib" in run.stderr.splitlines()[-1]
