"""The embedding: rows of a table, and the sum of what comes back to each."""

from __future__ import annotations

import numpy
from hypothesis import given
from hypothesis import strategies as st

from minibloom.layers.embedding import embedding, embedding_backward

from ..gradients import assert_gradient, assert_linear
from ..strategies import normal, seeds, some

shapes = st.tuples(st.integers(1, 3), st.integers(1, 6))
rows = st.integers(1, 4)  # fewer rows than positions: some are looked up twice, some never


@some
@given(shapes, rows, seeds)
def test_each_id_looks_up_its_row(shape, V, seed):
    ids, table = numpy.random.default_rng(seed).integers(0, V, shape), normal(seed, V, 3)
    x = embedding(ids, table)
    assert x.shape == (*shape, 3)
    assert all((x[position] == table[ids[position]]).all() for position in numpy.ndindex(*shape))


@some
@given(shapes, rows, seeds)
def test_backward(shape, V, seed):
    ids, table = numpy.random.default_rng(seed).integers(0, V, shape), normal(seed, V, 3)
    d, dtable = normal(seed + 1, *shape, 3), numpy.zeros((V, 3))
    embedding_backward(d, ids, dtable)
    assert_gradient(lambda: (d * embedding(ids, table)).sum(), table, dtable)

    def backward(d: numpy.ndarray) -> tuple[numpy.ndarray]:
        dtable = numpy.zeros((V, 3))
        embedding_backward(d, ids, dtable)
        return (dtable,)

    assert_linear(backward, d)


def test_repeated_ids_add_up_onto_what_the_head_left_there():
    dtable = numpy.array([[10.0], [20.0], [30.0]])
    embedding_backward(numpy.array([[[1.0], [2.0], [4.0]]]), numpy.array([[2, 0, 2]]), dtable)
    assert dtable.tolist() == [[12.0], [20.0], [35.0]]
