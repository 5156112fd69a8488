"""Which rows of a job are in the batch, which of them go on, and why the others have ended."""

from __future__ import annotations

import numpy

from ..backend import Array
from .job import History, Job
from .stopping import LENGTH


class Rows:
    """`count` rows, all of them in a batch of B at first. What is decided about them stands on the host."""

    def __init__(self, job: Job, count: int) -> None:
        self.job, self.count = job, count
        self.numbers = numpy.arange(count)  # [B], which rows of the job are the rows of the batch
        self.here = job.xp.asarray(self.numbers)  # the same, to index with
        self.going = [True] * count  # [B]; not an array: each step asks, and Python answers sooner than NumPy

    def filled(self, chosen: Array) -> Array:
        """Ids `chosen [..., B]`, with padding where a row has ended."""
        return chosen if all(self.going) else self.job.xp.where(self.job.xp.asarray(self.going), chosen, self.job.pad)

    def note_ends(self, history: History, scores: Array) -> None:
        """Note which rows end with their last id, chosen from `scores [B, V]`."""
        job = self.job
        ended = job.stopping.reasons(history.ids, scores)
        if history.length == job.length:
            ended = dict.fromkeys(range(len(self.numbers)), LENGTH) | ended
        for i, reason in ended.items():
            job.result.reasons.setdefault(int(self.numbers[i]), reason)
            self.going[i] = False

    def of_all(self, chosen: Array) -> Array:
        """Ids `chosen [B]` of the batch -> `[count]`, with padding for rows that have left."""
        if len(self.numbers) == self.count:
            return chosen
        full = self.job.xp.full(self.count, self.job.pad)
        full[self.here] = chosen
        return full

    def leave(self) -> Array:
        """Let the rows leave that have ended; returns the places in the batch of those that stay."""
        left = numpy.flatnonzero(self.going)
        places = self.job.xp.asarray(left)
        self.numbers, self.here, self.going = self.numbers[left], self.here[places], [True] * len(left)
        return places
