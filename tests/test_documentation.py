"""The examples of the documentation that minibloom implements, with only the import changed and tensors as "np".

They stand as they are printed there, but for the name of the checkpoint: a tiny one takes the hub's place.
"""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from . import tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("bloom-560m"))


def test_bloom_config():
    from minibloom import BloomConfig, BloomModel

    # Initializing a Bloom configuration
    configuration = BloomConfig()

    # Initializing a model (with random weights) from the configuration
    model = BloomModel(configuration)

    # Accessing the model configuration
    configuration = model.config

    documented = {
        "vocab_size": 250880,
        "hidden_size": 64,
        "n_layer": 2,
        "n_head": 8,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "apply_residual_connection_post_layernorm": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "pretraining_tp": 1,
        "slow_but_exact": False,
    }
    assert {name: getattr(configuration, name) for name in documented} == documented
    assert model.params["word_embeddings.weight"].shape == (250880, 64)


def test_bloom_tokenizer_fast(checkpoint):
    from minibloom import BloomTokenizerFast

    tokenizer = BloomTokenizerFast.from_pretrained(checkpoint)
    first = tokenizer("the cat")["input_ids"]
    second = tokenizer(" the cat")["input_ids"]

    assert isinstance(first, list) and all(isinstance(one, int) for one in first)
    assert first != second  # a word is encoded otherwise at the beginning of a text ...
    assert first[-1] == second[-1]  # ... and the same behind a space


def test_bloom_tokenizer_fast_of_words(checkpoint):
    from minibloom import BloomTokenizerFast

    tokenizer = BloomTokenizerFast.from_pretrained(checkpoint, add_prefix_space=True)
    words = tokenizer(["the", "cat"], is_split_into_words=True)["input_ids"]
    assert words == tokenizer("the cat")["input_ids"] == tokenizer(" the cat")["input_ids"]


def test_bloom_model(checkpoint):
    from minibloom import AutoTokenizer, BloomModel

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = BloomModel.from_pretrained(checkpoint)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="np")
    outputs = model(**inputs)

    last_hidden_states = outputs.last_hidden_state

    assert last_hidden_states.shape == (*inputs["input_ids"].shape, model.config.hidden_size)
    assert numpy.isfinite(last_hidden_states).all()


def test_bloom_for_causal_lm(checkpoint):
    from minibloom import AutoTokenizer, BloomForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = BloomForCausalLM.from_pretrained(checkpoint)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="np")
    outputs = model(**inputs, labels=inputs["input_ids"])
    loss = outputs.loss
    logits = outputs.logits

    ids = inputs["input_ids"]
    assert logits.shape == (*ids.shape, model.config.vocab_size)
    each = numpy.log(numpy.exp(logits).sum(-1))[0, :-1] - logits[0, numpy.arange(ids.shape[1] - 1), ids[0, 1:]]
    assert float(loss) == pytest.approx(float(each.mean()), rel=1e-5)  # the labels are shifted inside


def test_flax_bloom_model(checkpoint):
    from minibloom import AutoTokenizer, FlaxBloomModel

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = FlaxBloomModel.from_pretrained(checkpoint)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="np")
    outputs = model(**inputs)

    last_hidden_states = outputs.last_hidden_state

    assert last_hidden_states.shape == (*inputs["input_ids"].shape, model.config.hidden_size)
    assert numpy.isfinite(last_hidden_states).all()


def test_flax_bloom_for_causal_lm(checkpoint):
    from minibloom import AutoTokenizer, FlaxBloomForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = FlaxBloomForCausalLM.from_pretrained(checkpoint)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="np")
    outputs = model(**inputs)

    # retrieve logts for next token
    next_token_logits = outputs.logits[:, -1]

    assert next_token_logits.shape == (1, model.config.vocab_size)


@pytest.fixture
def new_heads():
    """A checkpoint of a language model gives a classifier a new head, and says so."""
    with pytest.warns(UserWarning, match="this head of .* is new"):
        yield


@pytest.mark.usefixtures("new_heads")
def test_bloom_for_sequence_classification_of_one_label(checkpoint):
    from minibloom import AutoTokenizer, BloomForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = BloomForSequenceClassification.from_pretrained(checkpoint)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="np")

    logits = model(**inputs).logits

    predicted_class_id = logits.argmax().item()

    # To train a model on `num_labels` classes, you can pass `num_labels=num_labels` to `.from_pretrained(...)`
    num_labels = len(model.config.id2label)
    model = BloomForSequenceClassification.from_pretrained(checkpoint, num_labels=num_labels)

    labels = numpy.array([1])
    loss = model(**inputs, labels=labels).loss

    assert logits.shape == (1, 2) and predicted_class_id in (0, 1)
    assert float(loss) == pytest.approx(float(numpy.log(numpy.exp(logits[0]).sum()) - logits[0, 1]), rel=1e-5)


@pytest.mark.usefixtures("new_heads")
def test_bloom_for_sequence_classification_of_several_labels(checkpoint):
    from minibloom import AutoTokenizer, BloomForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = BloomForSequenceClassification.from_pretrained(checkpoint, problem_type="multi_label_classification")

    inputs = tokenizer("Hello, my dog is cute", return_tensors="np")

    logits = model(**inputs).logits

    predicted_class_ids = numpy.arange(0, logits.shape[-1])[(1 / (1 + numpy.exp(-logits))).squeeze(axis=0) > 0.5]

    # To train a model on `num_labels` classes, you can pass `num_labels=num_labels` to `.from_pretrained(...)`
    num_labels = len(model.config.id2label)
    model = BloomForSequenceClassification.from_pretrained(
        checkpoint, num_labels=num_labels, problem_type="multi_label_classification"
    )

    labels = numpy.eye(num_labels)[predicted_class_ids].sum(axis=0)[None]
    loss = model(**inputs, labels=labels).loss

    assert labels.tolist() == (logits > 0).astype(float).tolist()
    assert 0 < float(loss) <= float(numpy.log(2))  # each is at least as likely as not


@pytest.mark.usefixtures("new_heads")
def test_bloom_for_token_classification(checkpoint):
    from minibloom import AutoTokenizer, BloomForTokenClassification

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = BloomForTokenClassification.from_pretrained(checkpoint)

    inputs = tokenizer(
        "HuggingFace is a company based in Paris and New York", add_special_tokens=False, return_tensors="np"
    )

    logits = model(**inputs).logits

    predicted_token_class_ids = logits.argmax(-1)

    # Note that tokens are classified rather then input words which means that
    # there might be more predicted token classes than words.
    # Multiple token classes might account for the same word
    predicted_tokens_classes = [model.config.id2label[t.item()] for t in predicted_token_class_ids[0]]

    labels = predicted_token_class_ids
    loss = model(**inputs, labels=labels).loss

    assert set(predicted_tokens_classes) <= {"LABEL_0", "LABEL_1"}
    assert len(predicted_tokens_classes) == inputs["input_ids"].shape[1] > 10
    assert 0 < float(loss) <= float(numpy.log(2))


@pytest.mark.usefixtures("new_heads")
def test_bloom_for_question_answering(checkpoint):
    """The page has no example of this head; its arguments are those of its signature there."""
    from minibloom import AutoTokenizer, BloomForQuestionAnswering

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = BloomForQuestionAnswering.from_pretrained(checkpoint)
    inputs = tokenizer("Who sat on the mat?", "the cat sat on the mat", return_tensors="np")
    out = model(**inputs, start_positions=[3], end_positions=[4])
    assert out.start_logits.shape == out.end_logits.shape == inputs["input_ids"].shape
    assert out.loss.shape == ()
