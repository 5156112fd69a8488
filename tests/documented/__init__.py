"""minibloom held against the documented oracle, transformers 4.35.2 with torch and Flax.

It needs NumPy 1 and minibloom NumPy 2, so it runs in a process of its own, with the Python of an environment where

    pip install transformers==4.35.2 torch==2.13.0 flax==0.7.5 jax==0.4.20 jaxlib==0.4.20 numpy==1.26.4 'scipy<1.12'

was done, and whose path the environment variable MINIBLOOM_DOCUMENTED_PYTHON holds. Without it the tests here are
skipped, and what is left are its figures in data/documented.safetensors, which `test_documented_goldens.py` checks.
"""

import os

VARIABLE = "MINIBLOOM_DOCUMENTED_PYTHON"
NOT_GIVEN = f"the documented oracle is not given: {VARIABLE} names no Python with transformers 4.35.2"


def is_given() -> bool:
    return bool(os.environ.get(VARIABLE))
