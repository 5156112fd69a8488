"""Losses: how far the model's answer is from the label. Forward and backward.

Three of them: cross-entropy, for one label out of several; binary cross-entropy, for labels of which each holds or
not by itself; mean squared error, for numbers.

Cross-entropy of a label y under logits z is the surprise -log softmax(z)_y, averaged over the labels that
count; -100 marks those that don't.

    loss = mean_n ( log Σ_v exp z[n, v] - z[n, y_n] )

Backward. The gradient of log Σ exp is softmax itself, so each row's gradient is the probabilities, less 1 at
the label:

    dz[n, v] = (softmax(z[n])_v - [v = y_n]) / count
"""

from __future__ import annotations

from .backend import Array, namespace
from .cuda import cross_entropy as kernels
from .threads import chunks, each

IGNORE = -100  # a label that does not count


def shift(labels: Array) -> Array:
    """Labels `[B, S]`, each the id at its own position -> the id after each position; none after the last."""
    after = namespace(labels).full_like(labels, IGNORE)
    after[:, :-1] = labels[:, 1:]
    return after


def cross_entropy(
    logits: Array, labels: Array, count: int | Array | None = None, in_place: bool = False
) -> tuple[Array, Array]:
    """`logits [..., V]`, `labels [...]` -> the mean loss, a scalar, and its gradient `dlogits [..., V]`.

    One function for both: the probabilities are the large array here, and both need them. Where every label
    is ignored there is no mean: the loss is NaN, as in the reference, and the gradient 0. `count` is what the sum is
    divided by instead, where these are only some of a batch's labels. With `in_place`, the gradient may take the place
    of the logits.
    """
    xp = namespace(logits, labels)
    z, y = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)  # [N, V], [N]
    counts = y != IGNORE
    total_count = counts.sum() if count is None else xp.asarray(count)
    if kernels.suits_cross_entropy(z, y):
        total, dz = kernels.cross_entropy(z, y, total_count, IGNORE)
        return xp.where(total_count > 0, total, xp.nan), dz.reshape(logits.shape)
    y = xp.where(counts, y, 0)
    share = (counts / xp.maximum(total_count, 1)).astype(z.dtype)  # [N], what each row adds to the mean

    dz, surprise = z if in_place else xp.empty_like(z), xp.empty_like(share)  # [N, V], [N]

    def of_rows(part: slice) -> None:
        x, label, p = z[part], y[part], dz[part]
        rows = xp.arange(len(x))
        top = x.max(-1, keepdims=True)  # cancels, and keeps exp from overflowing
        below = x[rows, label] - top[:, 0]
        xp.exp(xp.subtract(x, top, out=p), out=p)
        total = p.sum(-1)
        surprise[part] = xp.log(total) - below  # not top + log(total) - x: so a small one keeps its digits
        p *= (share[part] / total)[:, None]  # = softmax(x) * share
        p[rows, label] -= share[part]

    each(of_rows, chunks(z))
    loss = xp.where(total_count > 0, (surprise * share).sum(), xp.nan)
    return loss, dz.reshape(logits.shape)


def binary_cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """`logits`, `targets` in [0, 1], of one shape -> the mean loss, a scalar, and its gradient by the logits.

    Each number z is a yes or no of its own, with p = sigmoid(z) = 1 / (1 + exp(-z)) for yes:

        loss = mean( -y log p - (1 - y) log(1 - p) ) = mean( max(z, 0) - z y + log(1 + exp(-|z|)) )
        dz = (p - y) / count

    The second form of the loss is the first with the logarithms written out; no exp in it can overflow.
    """
    xp, z, y = namespace(logits, targets), logits, targets
    small = xp.exp(-xp.abs(z))  # in (0, 1]
    loss = (xp.maximum(z, 0) - z * y + xp.log1p(small)).mean()
    p = xp.where(z >= 0, 1, small) / (1 + small)
    return loss, (p - y) / z.size


def mean_squared_error(predictions: Array, targets: Array) -> tuple[Array, Array]:
    """`predictions`, `targets` of one shape -> the mean of (z - y)², a scalar, and its gradient 2 (z - y) / count."""
    difference = predictions - targets
    return (difference * difference).mean(), difference * (2 / difference.size)
