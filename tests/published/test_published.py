"""minibloom gives what other projects publish of the real checkpoints: `figures.py`, checked as `checks.py` says.

The checkpoints come from the hub: 15 MB of tokenizer, twice; 30 MB; and bloom-560m in two revisions of about 1.1 GB,
each of which takes 2.3 GB of memory in float32, one after the other. HF_HUB_OFFLINE=1 leaves all of this out; so does
a hub that is out of reach, and every test says so.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from minibloom import BloomForCausalLM, BloomTokenizerFast
from minibloom.errors import InputError
from minibloom.files import NONSENSE, cause, fetch, unreachable_errors

from . import checks
from .figures import FIGURES

TOKENS = FIGURES["tokens"]
pytestmark = pytest.mark.usefixtures("hub")
each_tokenizer = pytest.mark.parametrize("repo", TOKENS["repos"])


def each(name: str) -> Any:
    return pytest.mark.parametrize("figure", FIGURES[name], ids=range(len(FIGURES[name])))


@pytest.fixture(scope="session")
def hub() -> None:
    """Asks the hub once for all tests, and waits for 5 seconds at most."""
    from huggingface_hub import HfApi, constants, errors

    try:
        HfApi().model_info(TOKENS["repos"][0], timeout=5)
    except errors.RepositoryNotFoundError:
        pass  # an answer too: what is missing, the tests will say
    except unreachable_errors() + NONSENSE as error:
        pytest.skip(f"the hub ({constants.ENDPOINT}) is out of reach: {cause(error)}")


@lru_cache
def tokenizer_of(repo: str) -> BloomTokenizerFast:
    return BloomTokenizerFast.from_pretrained(repo)


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model of a figure's checkpoint. Only the last one is kept: it may fill the memory."""
    held: dict[str, BloomForCausalLM] = {}

    def model(figure: checks.Figure) -> BloomForCausalLM:
        repo, revision = figure["checkpoint"]["repo"], figure["checkpoint"].get("revision")
        name = f"{repo}@{revision}"
        if name not in held:
            held.clear()
            held[name] = BloomForCausalLM.from_pretrained(loadable(repo, revision, tmp_path_factory), revision=revision)
        return held[name]

    return model


def loadable(repo: str, revision: str | None, tmp_path_factory: pytest.TempPathFactory) -> str | Path:
    """The repository; or, where it holds only a pickle, what transformers makes of it, as the error says."""
    try:
        fetch(repo, revision=revision)
    except InputError as error:
        if "only as a pickle" not in str(error):
            raise
        transformers = pytest.importorskip("transformers", reason=f"{error}")
        from huggingface_hub import snapshot_download

        pickle = snapshot_download(repo, revision=revision, allow_patterns=["*.json", "*.bin"], ignore_patterns="*/*")
        folder = tmp_path_factory.mktemp("converted")
        transformers.BloomForCausalLM.from_pretrained(pickle, dtype="auto").save_pretrained(folder)
        return folder
    return repo


# --- the tokenizer ---


@each_tokenizer
@pytest.mark.parametrize("cases", ["cases", "cases_of_unknown_tokens"])
def test_ids(repo, cases):
    checks.check_ids(tokenizer_of(repo), TOKENS[cases])


@each_tokenizer
def test_tokens(repo):
    checks.check_vocabulary(tokenizer_of(repo), TOKENS["vocabulary"])


@each_tokenizer
def test_prefix_space(repo):
    checks.check_prefix_space(repo, TOKENS["prefix_space"])


# --- the small checkpoints ---


@pytest.mark.parametrize("dtype", FIGURES["embeddings"]["dtypes"])
def test_embeddings(model_of, dtype):
    checks.check_embeddings(model_of(FIGURES["embeddings"]), FIGURES["embeddings"], dtype)


def test_normed_embeddings(model_of):
    checks.check_normed_embeddings(model_of(FIGURES["embeddings"]), FIGURES["embeddings"])


def test_outputs(model_of):
    checks.check_outputs(model_of(FIGURES["outputs"]), FIGURES["outputs"])


@each("tiny_generations")
def test_tiny_generation(model_of, figure):
    checks.check_generation(model_of(figure), tokenizer_of(figure["checkpoint"]["repo"]), figure)


# --- bloom-560m: first one revision, then the other ---


@each("batches")
def test_batch(model_of, figure):
    checks.check_batch(model_of(figure), tokenizer_of(figure["checkpoint"]["repo"]), figure)


@each("generations")
def test_generation(model_of, figure):
    checks.check_generation(model_of(figure), tokenizer_of(figure["checkpoint"]["repo"]), figure)


@each("log_probabilities")
def test_log_probabilities(model_of, figure):
    checks.check_log_probabilities(model_of(figure), figure)


def test_first_numbers(model_of):
    checks.check_first_numbers(model_of(FIGURES["first_numbers"]), FIGURES["first_numbers"])


def test_cache(model_of):
    checks.check_cache(model_of(FIGURES["cache"]), FIGURES["cache"])
