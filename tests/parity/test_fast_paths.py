"""The parity tests take every fast path where they are to: counted, so that none is left out unseen."""

from __future__ import annotations

from unittest import mock

import pytest

from . import NOT_INSTALLED

pytest.importorskip("torch", reason=NOT_INSTALLED)
pytest.importorskip("transformers", minversion="5.23", reason=NOT_INSTALLED)

from minibloom.layers import tiled_attention as tiles

from ..fast_paths import OF_SMALL_WEIGHTS, counted, fast_paths, some
from . import test_half_precision as fewer_bits
from . import test_transformers as parity
from .cases import call_of


def test_every_fast_path_is_taken():
    with fast_paths(), counted() as calls:
        some(parity.test_outputs_loss_and_every_gradient)("float32")
        some(parity.test_loss_and_every_gradient_without_logits)("float32")
        some(parity.test_cached_pieces)("float32")
        some(parity.test_token_by_token)("float32")
    assert [name for name, count in calls.items() if not count] == list(OF_SMALL_WEIGHTS)


def test_matrices_in_fewer_bits_take_theirs(tmp_path_factory):
    with fast_paths(), counted() as calls:
        some(fewer_bits.test_matrices_that_stay_in_fewer_bits_are_the_numbers_that_they_stand_for)(
            "int8", tmp_path_factory
        )
    assert all(calls[name] for name in OF_SMALL_WEIGHTS), calls


def test_far_keys_of_a_few_hundred_positions_are_skipped():
    """Of fewer than `test_unusual_sizes` has."""
    case, visited = call_of(1, 200, n_layer=1), []
    for far in (tiles._far, lambda norms, alibi: None):
        seen: list[None] = []  # a mock's own count is not for several threads
        count = lambda *_, seen=seen: seen.append(None)  # noqa: E731
        with fast_paths(), mock.patch.object(tiles, "_far", far), mock.patch.object(tiles, "_seen", count):
            case.model("float32")(**case.call("float32"))
        visited.append(len(seen))
    assert visited[0] < 0.9 * visited[1]
