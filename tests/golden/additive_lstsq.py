#!/usr/bin/env python3
"""The least error that fixed codebooks can have, by numpy's lstsq, for the vectors and codes of
tests/qinco/additive_test.cpp, which holds these numbers. Prints them; needs numpy."""
import pathlib

import numpy as np

SAMPLE = pathlib.Path(__file__).resolve().parents[2] / "data" / "sift-sample" / "learn.bvecs"
K, D = 16, 8


def case(n, M, used):
    """n vectors of the first D values, with M codes below `used` made from their values."""
    x = np.fromfile(SAMPLE, dtype=np.uint8).reshape(-1, 132)[:n, 4:].astype(np.int64)
    codes = np.stack([(x[:, m] + 2 * x[:, m + 5]) // 16 % used for m in range(M)], axis=1)
    x = x[:, :D].astype(np.float64)
    one_hot = np.zeros((n, M * K))
    for m in range(M):
        one_hot[np.arange(n), m * K + codes[:, m]] = 1
    table = np.linalg.lstsq(one_hot, x, rcond=None)[0]
    mse = ((x - one_hot @ table) ** 2).sum(axis=1).mean()
    print(f"n={n} M={M} codes below {used}: MSE {mse:.9g}")


case(2000, 4, 16)
case(2000, 6, 11)  # codewords 11..15 never occur
case(70, 4, 16)  # hardly more vectors than unknowns
