"""How the tests run: Hypothesis without time limits per example, with the same draws each time in CI; Ctrl-C heard.

A shell that runs the tests in the background has them ignore SIGINT, and every process that a test starts with them.

What computes is tested on every backend: with NumPy, on the stand-in for a device (`standin.py`), and where there is
a GPU on that. `pytest -m gpu` runs the GPU's part alone. Parity and properties of whole models are tested with NumPy
twice: as small models are computed, and on the fast paths of large ones (`fast_paths.py`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

from minibloom.backend import load
from minibloom.cuda.kernels import can_launch
from minibloom.errors import InputError
from minibloom.generation import compiled_draw
from minibloom.layers import compiled_blocks, compiled_rows, compiled_steps

from . import bridge, standin, tiny
from .fast_paths import fast_paths

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def numba_where_it_is_asked_for() -> Iterator[None]:
    """Which path a pass takes is not to depend on whether an earlier test has imported Numba."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (compiled_blocks, compiled_draw, compiled_rows, compiled_steps):
            patch.setattr(module, "at_hand", lambda: False)
        yield


@pytest.fixture
def start() -> Iterator[Any]:
    """Start `minibloom train`; whatever happens, nothing runs on after the test."""
    started = []

    def starter(*arguments: Any) -> subprocess.Popen[bytes]:
        started.append(tiny.start(*arguments))
        return started[-1]

    yield starter
    for process in started:
        process.kill()
        process.communicate()


# --- every backend ---

ON_EVERY_BACKEND = """
    layers.test_alibi layers.test_attention layers.test_block layers.test_dropout layers.test_embedding
    layers.test_layer_norm layers.test_linear layers.test_mlp layers.test_softmax layers.test_transformer
    test_cache test_chunked_loss test_documented_goldens test_goldens test_heads test_losses test_models test_optimizer
    test_trace test_window_cache
"""
# First those that take differences of many passes, then those that look at NumPy's memory or name it, or replace parts.
ON_THE_HOST_ALONE = """
    test_backward test_every_gradient_is_the_derivative_of_the_loss
    test_every_gradient_of_a_bare_model_is_that_of_its_upstream
    test_the_gradient_at_every_step_is_the_derivative_of_the_loss_by_what_flows_there
    test_keys_and_values_of_earlier_passes_are_constants
    test_adamw_is_torchs test_a_model_with_another_alibi_is_trained

    test_splitting_into_heads_is_undone_by_merging test_watching_changes_no_bit_and_what_was_seen_stays
    test_a_cache_of_another_library_is_an_error_before_any_work_is_done
    test_bad_input_is_one_error_that_says_what_is_wrong test_bad_input_is_the_same_error_with_labels_and_gradients
    test_bad_input_is_the_same_error_as_for_every_model test_bad_labels_of_a_text test_bad_labels_of_tokens
    test_bad_places_of_an_answer test_any_split_into_passes_equals_one_pass_with_older_keys_masked
    test_what_was_seen_is_not_changed_later test_backward_reads_everything_that_its_tape_keeps
    test_the_command_makes_the_same_file_again
    test_a_parameter_that_config_does_not_tell_of_is_said_before_any_work
    test_parameters_are_looked_at_once_a_call_and_not_at_each_token
"""
EXAMPLES = 4  # that Hypothesis draws for a device, where a call takes longer: their formulas are the host's
BACKENDS = ("numpy", "standin", pytest.param("cupy", marks=pytest.mark.gpu))

ON_FAST_PATHS_TOO = """
    parity.test_half_precision parity.test_heads parity.test_quirks parity.test_transformers
    test_cache test_chunked_loss test_fast_paths test_heads test_models
"""  # what Hypothesis draws in there, and these:
NOT_DRAWN = ["test_unusual_sizes"]
ON_PLAIN_PATHS_ALONE = [
    "test_watching_changes_no_bit_and_what_was_seen_stays",  # who watches probabilities has the plain path, to the bit
    "test_products_in_16_bits_on_a_device_are_no_further_either",  # which has paths of its own
    "test_what_is_returned",  # names and shapes
]


def why_no_gpu() -> str:
    """Why tests cannot run on a GPU here; nothing if they can."""
    try:
        load("cupy")
    except InputError as error:
        return str(error)
    return ""


def listed(module: ModuleType, names: str) -> bool:
    return module.__name__.removeprefix("tests.") in names.split()


def on_every_backend(module: ModuleType) -> bool:
    return listed(module, ON_EVERY_BACKEND)


def on_fast_paths_too(test: Any, module: ModuleType) -> bool:
    drawn = getattr(test, "is_hypothesis_test", False)
    chosen = (drawn or test.__name__ in NOT_DRAWN) and test.__name__ not in ON_PLAIN_PATHS_ALONE
    return chosen and listed(module, ON_FAST_PATHS_TOO)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of what computes run once for each backend; for a GPU only where there is one, or where it is asked for."""
    asked = "gpu" in (metafunc.config.option.markexpr or "")
    devices = BACKENDS[1:] if asked or not why_no_gpu() else BACKENDS[1:2]
    test, backends = metafunc.function, ["numpy"]
    if on_fast_paths_too(test, metafunc.module):
        backends.append("fast")
    if on_every_backend(metafunc.module) and test.__name__ not in ON_THE_HOST_ALONE.split():
        backends += devices
    if "device" in metafunc.fixturenames:
        backends = devices
    if backends != ["numpy"]:
        metafunc.parametrize("backend", backends, indirect=True, scope="module")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Where a GPU is asked for, a word on why there is none: what is skipped looks like what passed."""
    if "gpu" in (config.option.markexpr or "") and "not gpu" not in config.option.markexpr and why_no_gpu():
        terminalreporter.write_line(f"nothing ran on a GPU: {why_no_gpu()}", red=True)


@pytest.fixture(autouse=True, scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backend that the tests of a module compute with; "fast" is NumPy, on its fast paths."""
    name = getattr(request, "param", "numpy")
    if name == "fast":
        with fast_paths(), fewer_examples(request.module, lambda own: max(6, own // 4)):  # not once more the time
            yield name
        return
    if name == "cupy" and why_no_gpu():
        pytest.skip(why_no_gpu())
    with pytest.MonkeyPatch.context() as patch:
        if name == "standin":
            patch.setitem(sys.modules, "cupy", standin.cupy)
        if name == "numpy" or not on_every_backend(request.module):
            yield name
            return
        with bridge.onto(load("cupy"), request.module), fewer_examples(request.module, lambda own: min(own, EXAMPLES)):
            yield name


@contextmanager
def fewer_examples(module: ModuleType, fewer: Callable[[int], int]) -> Iterator[None]:
    """While this lasts, Hypothesis draws for a test of `module` `fewer(own)` examples in place of its own number."""
    with pytest.MonkeyPatch.context() as patch:
        for test in vars(module).values():
            own = getattr(test, "_hypothesis_internal_use_settings", None)
            if own is not None:
                changed = settings(own, max_examples=fewer(own.max_examples))
                patch.setattr(test, "_hypothesis_internal_use_settings", changed)
        yield


@pytest.fixture(scope="module")
def device(backend: str) -> Any:
    """The array library of a device: the stand-in, and where there is a GPU CuPy."""
    return load("cupy")


@pytest.fixture(scope="module")
def launching(device: Any) -> Any:
    """The same, if kernels can be launched on it: on the stand-in, where there is a compiler to emulate them with."""
    if not can_launch(device):
        pytest.skip("kernels are emulated with g++")
    return device
