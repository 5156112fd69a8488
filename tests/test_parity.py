"""minibloom.parity: a right port is right, a wrong one is caught at the step where it is wrong, and told why."""

from __future__ import annotations

import json
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import minibloom
from minibloom import BloomConfig, parity
from minibloom.comparison import OF_GRADIENTS, TOLERANCE, compare, selection
from minibloom.errors import InputError
from minibloom.golden import GIVEN, KEY, Steps, read, run, write
from minibloom.slips import HINTS, SLIPS
from minibloom.tensor_file import write_tensors
from minibloom.trace import STEPS, step_names

from .port import port
from .strategies import configs, few, masks, random_model, seeds, some, token_ids

KINDS = (
    "BloomModel",
    "BloomForCausalLM",
    "BloomForSequenceClassification",
    "BloomForTokenClassification",
    "BloomForQuestionAnswering",
)
# Six heads, so that the order of slopes shows; padding on the left, in holes, on the right.
CONFIG = BloomConfig(vocab_size=31, hidden_size=24, n_layer=2, n_head=6, pad_token_id=3, layer_norm_epsilon=1e-3)
IDS = numpy.random.default_rng(0).integers(4, 31, (3, 8))
MASK = numpy.array([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]])
IDS[MASK == 0] = 3


def model_of(kind: str = "BloomForCausalLM", dtype: str = "float64", **changes: Any) -> Any:
    return random_model(CONFIG.replace(**changes), 3, dtype, getattr(minibloom, kind))


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of()


@pytest.fixture(scope="module")
def golden(model: Any) -> Steps:
    return run(model, IDS, MASK, gradients=True)


def anonymous(steps: Steps, *names: str) -> dict[str, numpy.ndarray]:
    """What a port shows that computed these steps, or only those with the given names."""
    return {name: x.copy() for name, x in steps.items() if name not in GIVEN and (not names or name in names)}


# --- Ports ---


@few
@given(data=st.data())
def test_a_right_port_is_right_whatever_it_shows(data):
    plain = {"apply_residual_connection_post_layernorm": False, "slow_but_exact": False, "tie_word_embeddings": True}
    model = random_model(data.draw(configs(**plain)), data.draw(seeds))
    ids = data.draw(token_ids(model.config))
    mask = data.draw(masks(ids.shape))
    shown = data.draw(st.sets(st.sampled_from([*port(model)(ids[:, :1], ids[:, :1] * 0 + 1)]), min_size=1))
    report = parity.check(lambda i, m: {n: x for n, x in port(model)(i, m).items() if n in shown}, model, ids, mask)
    assert report.ok and report.first is None and report.hints == [], str(report)
    assert {row.name for row in report.rows} == shown


WRONG = {
    "no embedding norm": ("word_embeddings_layernorm", "LayerNorm after the embedding"),
    "epsilon": ("word_embeddings_layernorm", "epsilon is 1e-6 (Flax's default); config.json says 0.001"),
    "sorted slopes": ("alibi", "slopes are sorted. Where the number of heads (6) is no power of two"),
    "slopes as of a power of two": ("alibi", "slopes are 2^(-8 h / H)"),
    "padding counts": ("alibi", "ALiBi counts padding"),
    "[3, H, D]": ("h.0.self_attention.query", "split as [3, H, D], as in GPT-2"),
    "scaled ALiBi": ("h.0.self_attention.scores", "ALiBi is scaled by 1 / sqrt(D) too"),
    "no causal mask": ("h.0.self_attention.probs", "causal mask is missing"),
    "no bias of self_attention.dense": ("h.0.self_attention.dense", "The bias of dense is missing"),
    "no bias of mlp.dense_h_to_4h": ("h.0.mlp.dense_h_to_4h", "The bias of dense_h_to_4h is missing"),
    "erf": ("h.0.mlp.gelu", "GELU is the exact one, by erf"),
    "no last norm": ("ln_f", "last LayerNorm, ln_f, is missing"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("slip", WRONG)
def test_a_wrong_port_is_caught_at_the_step_where_it_is_wrong_and_told_why(slip, dtype):
    model, (step, said) = model_of(dtype=dtype), WRONG[slip]
    report = parity.check(port(model, slip), model, IDS, MASK)
    assert not report.ok and report.first.name == step
    assert said in report.hints[-1] and "with it, the rest agrees" in report.hints[-1]
    assert said.split()[0] in str(report)


@pytest.mark.parametrize("slip", WRONG)
def test_the_logits_alone_tell_what_is_wrong(slip):
    model = model_of()
    wrong = port(model, slip)
    report = parity.check(lambda ids, mask: {"logits": wrong(ids, mask)["logits"]}, model, IDS, MASK)
    assert report.first.name == "logits"
    assert WRONG[slip][1] in report.hints[-1]


@pytest.mark.parametrize("slip", range(len(SLIPS)), ids=lambda i: SLIPS[i].said[:40])
@pytest.mark.parametrize("after_norm", [False, True])
def test_every_known_slip_is_recognised(slip, after_norm):
    slip = SLIPS[slip]
    kind = "BloomForSequenceClassification" if slip.steps == ("last_token",) else "BloomForCausalLM"
    model = model_of(kind, apply_residual_connection_post_layernorm=after_norm)
    ours = run(model, IDS, MASK, gradients="gradient" in slip.steps[0])
    first = next(name for name in ours if parity.generic(name) in slip.steps)
    report = parity.check(anonymous(parity.with_slip(slip, model, ours, first)), model, IDS, MASK)
    assert report.first.name == first
    assert slip.said.format(config=model.config) in report.hints[-1]


def test_slopes_that_begin_with_power_0_are_recognised():
    model = model_of(n_head=8)  # slopes 1/2, 1/4, ...
    shown = {"alibi": 2 * run(model, IDS, MASK)["alibi"]}
    assert "slopes are one power too large" in parity.check(shown, model, IDS, MASK).hints[-1]


def test_of_two_slips_the_first_is_named_and_how_far_it_reaches(model):
    both = port(model, "[3, H, D]")(IDS, MASK)
    both["logits"] = both["logits"] * 2
    report = parity.check(both, model, IDS, MASK)
    assert "split as [3, H, D]" in report.hints[-1] and report.hints[-1].endswith("all is right up to logits.")


def test_a_slip_in_one_block_alone_is_recognised(model):
    slip = next(slip for slip in SLIPS if "by erf" in slip.said)
    shown = anonymous(parity.with_slip(slip, model, run(model, IDS, MASK), "h.1.mlp.gelu"))
    report = parity.check(shown, model, IDS, MASK)
    assert report.first.name == "h.1.mlp.gelu" and "by erf" in report.hints[-1]


def test_that_alibi_is_right_says_nothing_about_the_embedding(model):
    wrong = port(model, "no embedding norm")(IDS, MASK)
    report = parity.check({name: wrong[name] for name in ("alibi", "logits")}, model, IDS, MASK)
    assert "LayerNorm after the embedding" in report.hints[-1]


def test_a_slip_in_a_port_with_gradients_and_noise_is_recognised(model, golden):
    noise = numpy.random.default_rng(0)
    shown = anonymous(golden) | port(model, "[3, H, D]")(IDS, MASK)
    shown = {name: x * (1 + 1e-4 * noise.standard_normal(x.shape)) for name, x in shown.items()}
    shown["gradient/ln_f.weight"] *= 2  # as is to be expected
    for name in ("lm_head", "loss", *(name for name in shown if name.endswith(".weights"))):
        del shown[name]
    report = parity.check(shown, model, IDS, MASK, tolerance=1e-2)
    assert report.first.name == "h.0.self_attention.query"
    assert report.hints[-1].endswith("That is all: with it, the forward pass agrees.")


def test_what_is_no_known_slip_gets_what_can_be_seen_and_what_to_look_at(model, golden):
    shown = anonymous(golden)
    shown["h.1.mlp.gelu"][0, 5, 7] += 1
    first, *hints = parity.check(shown, model, IDS, MASK).hints
    assert first.startswith("The largest difference is at [0, 5, 7]: ") and HINTS["h.*.mlp.gelu"] in hints[-1]
    for change, said in [
        (lambda x: 3 * x, "All its numbers are 3 times what is expected."),
        (lambda x: 0 * x, "All its numbers are 0."),
        (lambda x: x + numpy.arange(96), "same vector at every token"),
        (lambda x: numpy.where(x == x[1, 3, 2], numpy.nan, x), "1 of its 1728 numbers are NaN or infinite"),
    ]:
        shown["h.1.mlp.gelu"] = change(golden["h.1.mlp.gelu"])
        assert any(said in hint for hint in parity.check(shown, model, IDS, MASK).hints), said


def test_a_wrong_loss_is_told_for_every_head():
    for kind in KINDS[1:]:
        model = model_of(kind)
        report = parity.check({"loss": 3 * run(model, IDS, MASK)["loss"]}, model, IDS, MASK)
        assert any("All its numbers are 3 times what is expected." in hint for hint in report.hints)


def test_what_softmax_does_not_see_is_said_to_be_no_mistake(model, golden):
    """ALiBi as a distance, which is the paper's form: one number a row away from BLOOM's."""
    shown = anonymous(golden)
    shown["alibi"] -= 7.0
    hints = parity.check(shown, model, IDS, MASK).hints
    assert any("nothing is wrong. Leave this step out" in hint for hint in hints)


def test_a_step_between_two_that_are_shown_is_suspected(model, golden):
    shown = anonymous(golden, "h.0.attention_residual", "h.0")
    shown["h.0"] = shown["h.0"] + numpy.random.default_rng(0).random(shown["h.0"].shape)
    (hint,) = [hint for hint in parity.check(shown, model, IDS, MASK).hints if "not shown" in hint]
    assert hint.endswith(
        "between h.0.attention_residual, which is right, and it: h.0.post_attention_layernorm, "
        "h.0.mlp.dense_h_to_4h, h.0.mlp.gelu, h.0.mlp.dense_4h_to_h."
    )


def test_a_port_that_shows_little_is_told_what_to_show_next(model, golden):
    noise = numpy.random.default_rng(0).random(golden["logits"].shape)
    *_, where, what = parity.check({"logits": golden["logits"] + noise}, model, IDS, MASK).hints
    assert where == "It may come from a step that is not shown, before it."
    assert what == "What to do: show what each block gives, h.0 to h.1, and compare again."


def test_float32_in_the_dress_of_float64_is_told(model, golden):
    noise = numpy.random.default_rng(0)
    shown = {
        name: x * (1 + 1e-6 * noise.standard_normal(x.shape))
        for name, x in anonymous(golden).items()
        if not name.endswith(".scores")  # whose lowest numbers would overflow
    }
    report = parity.check(shown, model, IDS, MASK)
    assert not report.ok and any("Nothing is off by more than float32 may be." in hint for hint in report.hints)
    shown["h.1"] *= 1.01
    assert not any("float32" in hint for hint in parity.check(shown, model, IDS, MASK).hints)
    assert not any("float32" in hint for hint in parity.check(shown, model, IDS, MASK, tolerance=1e-12).hints)


@pytest.mark.parametrize("step", ["h.0.mlp.dense_h_to_4h", "h.0.self_attention.scores", "alibi"])
def test_what_is_hardly_off_is_not_said_to_be_off_by_the_same_everywhere(model, golden, step):
    """Twice the tolerance hides how it varies: a bias that is missing, or a constant, stands out further."""
    shown = anonymous(golden)
    allowed = TOLERANCE["float64"] * numpy.where(shown[step] < -1e30, 0, abs(shown[step])).max()
    shown[step] += allowed * numpy.random.default_rng(0).uniform(-0.4, 1.5, shown[step].shape)
    hints = parity.check(shown, model, IDS, MASK).hints
    assert not any("same vector" in hint or "one number along" in hint for hint in hints), hints


def test_there_is_a_hint_for_every_step_of_a_plain_pass():
    inside = {name for name in (*STEPS, "lm_head", "logits", "loss", "last_token") if "dropout" not in name}
    assert inside - HINTS.keys() == {"input_ids", "h.*.self_attention.head_mask"}


def test_the_model_that_ships_reads_a_sentence_in_four_languages_by_default():
    report = parity.check(port(parity.load()))
    assert report.ok, str(report)
    assert report.ours["input_ids"].shape[1] > 20


# --- What is compared ---


@some
@given(data=st.data())
def test_one_number_that_is_off_marks_its_step_and_no_other(data, model, golden):
    name = data.draw(st.sampled_from([*anonymous(golden)]))
    shown = anonymous(golden)
    counted = numpy.broadcast_to(selection(name, shown[name].ndim, MASK)[0], shown[name].shape)
    place = tuple(data.draw(st.sampled_from(numpy.argwhere(counted).tolist())))
    scale = abs(golden[name])[counted].max()
    if name.startswith("gradient/") and name.endswith(".bias"):
        scale = max(scale, 0.1 * abs(golden[f"{name[:-5]}.weight"]).max())
    by = data.draw(st.sampled_from([0.9, -0.9, 1.1, -1.1, numpy.nan, numpy.inf]))
    off = not abs(by) < 1
    shown[name][place] += by * scale * TOLERANCE["float64"] * (OF_GRADIENTS if "grad" in name else 1)
    report = compare(golden, shown)
    assert [row.name for row in report.rows if not row.ok] == [name] * off
    assert report.ok is not off and (report.first is None or report.first.name == name)


def test_steps_come_in_forward_order_and_gradients_in_theirs(golden):
    names = [row.name for row in compare(golden, anonymous(golden)).rows if not row.padding]
    forward = [name for name in step_names(2) if name in golden and name not in GIVEN and "grad" not in name]
    assert names[: len(forward) + 3] == [*forward, "logits", "loss", "lm_head.grad"]
    assert names[len(forward) + 3] == "gradient/ln_f.bias" and names[-1] == "gradient/word_embeddings.weight"


def test_padding_is_compared_apart_and_counts_only_if_asked(golden):
    for name in ("word_embeddings", "h.1.self_attention.probs", "h.0.self_attention.key", "alibi", "logits"):
        shown, axis = anonymous(golden), 3 if name == "alibi" else 2 if "self_attention" in name else 1
        numpy.moveaxis(shown[name], axis, 1)[MASK == 0] = numpy.nan
        report = compare(golden, shown)
        assert report.ok and "Padding, which no token reads, is off in 1 of" in str(report)
        assert f"{name} (padding)" in str(report) and "off, unread" in str(report)
        report = compare(golden, shown, strict=True)
        assert report.first.name == name and report.first.padding


def test_a_gradient_that_is_zero_but_for_rounding_is_not_measured_by_itself():
    """That of the last bias of a model that answers questions: it moves the logits of all positions alike."""
    golden = run(model_of("BloomForQuestionAnswering"), IDS, MASK, gradients=True)
    bias, weight = "gradient/qa_outputs.bias", "gradient/qa_outputs.weight"
    assert abs(golden[bias]).max() < 1e-15
    assert compare(golden, {bias: golden[bias] + 1e-15}).ok
    assert not compare(golden, {bias: golden[bias] + 1e-3 * abs(golden[weight]).max()}).ok


def test_padding_is_measured_by_its_own_magnitude(golden):
    """A large number in padding does not widen what tokens may be off by."""
    shown = anonymous(golden, "h.0")
    large = Steps({**golden, "h.0": golden["h.0"].copy()}, golden.about)
    large["h.0"][0, 0] = shown["h.0"][0, 0] = 1e9
    shown["h.0"][0, 5, 0] += 1e-3
    assert compare(large, shown).first.name == "h.0"


@pytest.mark.parametrize("hidden", [-numpy.inf, -1e9, 0.0, numpy.nan])
def test_scores_that_nobody_reads_may_be_anything(golden, hidden):
    shown = anonymous(golden)
    for name in shown:
        if name.endswith(".scores"):
            shown[name][shown[name] == numpy.finfo("float64").min] = hidden
    assert compare(golden, shown).ok


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_the_tolerance_is_that_of_the_coarser_precision(tmp_path, stored):
    model = model_of(dtype="float32")
    steps = anonymous(run(model, IDS, MASK))
    write_tensors(tmp_path / "port.safetensors", {name: (x, stored) for name, x in steps.items()})
    shown = read(tmp_path / "port.safetensors")
    assert shown.about["dtype"] == stored
    report = parity.check(shown, model, IDS, MASK)
    assert report.ok and {row.tolerance for row in report.rows} == {TOLERANCE[stored]}
    assert parity.check(shown, model, IDS, MASK, tolerance=1e-9).ok == (stored == "float32")


def test_wrong_shapes_and_dtypes_are_marked_steps(model, golden):
    shown = anonymous(golden)
    shown["h.0.self_attention.key"] = 2 * shown["h.0.self_attention.key"].swapaxes(1, 2)
    shown["h.1.mlp.gelu"] = shown["h.1.mlp.gelu"].astype("int64")
    report = parity.check(shown, model, IDS, MASK)
    assert [row.problem for row in report.rows if not row.ok] == [
        "expected shape [3, 6, 8, 4]",
        "expected float64, not int64",
    ]
    assert "OFF, see below  <- first" in str(report)
    assert "h.0.self_attention.key has shape [3, 8, 6, 4]: expected shape [3, 6, 8, 4]." in str(report)
    assert "h.1.mlp.gelu has shape [3, 8, 96]: expected float64, not int64." in str(report)
    assert report.hints == [f"What to look at: {HINTS['h.*.self_attention.key']}"]


def test_right_numbers_in_another_layout_are_told_what_becomes_of_them(model, golden):
    for step, change, said in [
        ("h.0.self_attention.scores", lambda x: x.transpose(1, 2, 3, 0), "transpose(3, 0, 1, 2)"),
        ("h.1.mlp.gelu", lambda x: x.reshape(24, 96), "reshape"),
    ]:
        wrong = change(golden[step])
        report = parity.check({**anonymous(golden), step: wrong}, model, IDS, MASK)
        assert report.first.name == step and report.hints == []
        right = f"expected shape {list(golden[step].shape)}; its numbers are right, and {said} gives that."
        assert f"{step} has shape {list(wrong.shape)}: {right}" in " ".join(str(report).split())


def test_an_array_with_more_axes_is_not_turned_in_all_ways(model, golden):
    deep = golden["h.1.mlp.gelu"].reshape(3, 8, 96, *[1] * 20)  # 23! of them
    report = parity.check({**anonymous(golden), "h.1.mlp.gelu": deep}, model, IDS, MASK)
    assert report.first.becomes == "reshape"


def test_whole_numbers_have_to_be_the_same_whatever_the_tolerance():
    golden = run(model_of("BloomForSequenceClassification"), IDS, MASK)
    assert compare(golden, {"last_token": golden["last_token"]}, tolerance=0.5).ok
    assert not compare(golden, {"last_token": golden["last_token"] - [0, 0, 1]}, tolerance=0.5).ok


def test_two_of_different_models_are_not_compared(golden):
    other = run(model_of(n_layer=1), IDS, MASK)
    with pytest.raises(InputError, match="is of another model: its n_layer is 1, expected 2"):
        compare(golden, other)
    with pytest.raises(InputError, match="is of another model: its vocab_size is 31, expected 20"):
        parity.check(golden, model_of(vocab_size=20))  # and not that its ids are too large


def test_names_that_only_one_side_has_are_said(golden):
    report = compare(golden, {"logits": golden["logits"], "h.0.mlp.gellu": golden["h.0.mlp.gelu"]})
    assert report.ok
    assert "Not known here, so not compared: h.0.mlp.gellu. Did you mean 'h.0.mlp.gelu'?" in str(report)
    assert "Not shown by the port: word_embeddings, word_embeddings_layernorm, alibi, h.*.input_layernorm" in str(
        report
    )


def test_names_with_the_prefix_of_a_checkpoint_are_told_the_right_one(golden):
    prefixed = {f"transformer.{name}": x for name, x in anonymous(golden, "h.0", "h.1").items()}
    assert "transformer.h.1. Did you mean 'h.0'?" in str(compare(golden, {"logits": golden["logits"], **prefixed}))
    with pytest.raises(InputError, match=r"shows no step of this model\. .* Did you mean 'h\.0'\?"):
        compare(golden, prefixed)


@pytest.mark.parametrize("name", ["logits", "lm_head"])
def test_logits_are_shown_under_either_of_their_names(golden, name):
    shown = {step: x for step, x in anonymous(golden).items() if step not in ("logits", "lm_head") or step == name}
    assert "Not shown" not in str(compare(golden, shown))


def test_a_report_fits_a_terminal(model, golden):
    shown = anonymous(golden)
    shown["word_embeddings_layernorm"] += 1
    for line in str(parity.check(shown, model, IDS, MASK)).splitlines():
        assert len(line) <= 120
    head, table, end = str(compare(golden, anonymous(golden))).split("\n\n")
    assert "3 x 8 positions, 6 of them padding" in head
    assert len({line.rindex("1e-07") for line in table.splitlines() if "1e-07" in line}) == 1
    assert end.endswith("All are equal.")


def test_a_port_may_give_arrays_of_other_libraries(model):
    class Tensor:
        def __init__(self, x: numpy.ndarray) -> None:
            self.x = x

        def detach(self) -> Tensor:
            return self

        def __array__(self, dtype: Any = None, copy: Any = None) -> numpy.ndarray:
            return self.x

    right = port(model)
    assert parity.check(lambda i, m: {n: Tensor(x) for n, x in right(i, m).items()}, model, IDS, MASK).ok


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({"hidden": numpy.ones(3)}, "shows no step of this model"),
        ({"lm_heads": numpy.ones(3)}, "Did you mean 'lm_head'?"),
        ({}, "shows no step"),
        ({"logits": "many"}, "logits holds <U4, expected an array of numbers"),
        ({"logits": [[1.0], [1.0, 2.0]]}, "logits is no array that NumPy can read"),
        ([1.0], "gave a list, expected a mapping"),
        ({"input_ids": IDS[:, 1:], "logits": numpy.ones(3)}, "the port has read other input_ids"),
        ({"attention_mask": MASK[:, ::-1], "logits": numpy.ones(3)}, "has read other attention_mask"),
    ],
)
def test_what_cannot_be_compared_is_said(model, shown, said):
    with pytest.raises(InputError, match=None) as error:
        parity.check(shown if isinstance(shown, dict) else lambda *_: shown, model, IDS, MASK)
    assert said in str(error.value)


def test_what_cannot_be_run_is_said(model):
    for call, said in [
        (lambda: parity.check({"logits": IDS}, model), "input_ids is missing"),
        (lambda: run(model, IDS, MASK[:, 1:]), "attention_mask has shape [3, 7], expected [3, 8] like input_ids"),
        (lambda: run(model, IDS, MASK * 0.5), "attention_mask holds other numbers"),
        (lambda: run(model, IDS[:, :1], gradients=True), "no loss to take gradients of: BloomForCausalLM needs"),
        (lambda: run(model_of("BloomModel"), IDS, gradients=True), "BloomModel has none"),
        (lambda: compare(Steps({"logits": IDS}), {"logits": IDS}), "the port cannot be the reference"),
    ]:
        with pytest.raises(InputError) as error:
            call()
        assert said in str(error.value)


# --- The file ---


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back_and_agrees_for_every_head(tmp_path, kind, dtype):
    model = model_of(kind, dtype)
    steps = run(model, IDS, MASK, gradients=kind != "BloomModel")
    write(tmp_path / "a", steps)
    write(tmp_path / "b", run(model, IDS, MASK, gradients=kind != "BloomModel"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = read(tmp_path / "a")
    assert list(back) == list(steps) and back.about == steps.about
    assert all((back[name] == x).all() and back[name].dtype == x.dtype for name, x in steps.items())
    report = parity.check(back, model)
    assert report.ok and {row.relative for row in report.rows} == {0.0}
    assert {row.name for row in report.rows} == steps.keys() - {*GIVEN}
    assert compare(back, anonymous(back)).ok  # a file can be the reference, too


def test_the_file_holds_what_its_description_says(tmp_path, golden):
    """Shapes and names at the head of golden.py, read by the safetensors package."""
    write(tmp_path / "g.safetensors", golden)
    B, S, E, H, D, V = 3, 8, 24, 6, 4, 31
    shapes = {
        ("input_ids", "attention_mask", "labels"): [B, S],
        ("lm_head", "logits", "lm_head.grad"): [B, S, V],
        ("loss",): [],
        ("query_key_value",): [B, S, 3 * E],
        ("query", "key", "value"): [B, H, S, D],
        ("alibi",): [B, H, 1, S],
        ("scores", "probs", "weights"): [B, H, S, S],
        ("dense_h_to_4h", "gelu"): [B, S, 4 * E],
    }
    expected = {name: shape for names, shape in shapes.items() for name in names}
    arrays = load_file(tmp_path / "g.safetensors")
    params = model_of().params
    for name, x in arrays.items():
        if name.startswith("gradient/"):
            assert x.shape == params[name.removeprefix("gradient/")].shape
        else:
            assert list(x.shape) == expected.get(name, expected.get(name.rpartition(".")[2], [B, S, E])), name
        assert x.dtype == ("int64" if name in GIVEN else "float64")
    wanted = {name for name in step_names(2) if not name.endswith(("dropout", "head_mask", "dhidden", "dweight"))}
    wanted |= {"attention_mask", "labels", "logits", "loss", *(f"gradient/{name}" for name in params)}
    assert arrays.keys() == wanted
    assert golden.about.keys() == {"format", "by", "class", "config", "dtype", "steps"}
    assert all(golden.about["steps"].values()) and list(golden.about["steps"]) == list(golden)
    counted = (MASK == 1) & (numpy.pad(MASK, ((0, 0), (1, 0)))[:, :-1] == 1)
    assert (arrays["labels"] == numpy.where(counted, IDS, -100)).all()


@pytest.mark.parametrize("kind", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_whole_numbers_of_every_kind_are_read_as_they_are(tmp_path, kind):
    written = numpy.array([[0, 1], [2, 127]]).astype(kind)
    save_file({"mask": written, "x": numpy.ones(1)}, tmp_path / "a")
    mask = read(tmp_path / "a")["mask"]
    assert mask.dtype == kind and (mask == written).all()


def test_a_port_that_counts_other_labels_is_compared_with_them(model):
    labels = numpy.where(MASK == 1, IDS, -100)
    theirs = run(model, IDS, MASK, labels={"labels": labels})
    shown = {name: theirs[name] for name in ("input_ids", "attention_mask", "labels", "loss")}
    assert parity.check(shown, model).ok
    del shown["labels"]
    assert not parity.check(shown, model).ok


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": CONFIG.replace(n_layer=3).to_dict()}, "is of another model: its n_layer is 3, expected 2"),
        ({"class": "BloomModel"}, "is of a BloomModel, expected a BloomForCausalLM"),
        ({"format": 2}, "has format 2, expected 1"),
        ({"config": {"n_layer": "two"}}, "metadata 'minibloom.parity' cannot be read: n_layer is 'two'"),
        ({"steps": 3}, "metadata 'minibloom.parity' cannot be read"),
        ("[]]", "metadata 'minibloom.parity' cannot be read"),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_error(tmp_path, model, golden, change, said):
    path = tmp_path / "port.safetensors"
    text = change if isinstance(change, str) else json.dumps(golden.about | change)
    save_file({"logits": golden["logits"]}, path, {KEY: text})
    with pytest.raises(InputError) as error:
        parity.check(read(path), model, IDS, MASK)
    assert said in str(error.value)
