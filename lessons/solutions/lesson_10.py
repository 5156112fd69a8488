"""Solutions of lesson 10, training."""

import math

import numpy as np


def rows_of(documents, width):
    stream = np.concatenate(documents)
    return stream[: len(stream) // width * width].reshape(-1, width)  # [N, width]


def adamw(p, g, m, v, t, rate, decay, beta1=0.9, beta2=0.95, eps=1e-8):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    pull = decay * p if p.ndim > 1 else 0.0
    return p - rate * (m_hat / (np.sqrt(v_hat) + eps) + pull), m, v


def rate_of(step, steps, peak, warmup, final):
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * done)) / 2)


def clip(grads, limit):
    norm = math.sqrt(sum(float((g * g).sum()) for g in grads.values()))
    factor = min(1.0, limit / norm) if norm else 1.0
    return {name: g * factor for name, g in grads.items()}, norm
