#!/usr/bin/env python3
"""The errors of Faiss's classical quantizers on data/sift-sample, which tests/qinco/pq_test.cpp holds ours against.
Prints them; needs faiss and numpy. `--full`: the whole sample at 8 bytes, for the tables of docs/search.md."""
import argparse
import pathlib

import faiss
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "data" / "sift-sample"


def read_bvecs(name):
    raw = np.fromfile(FOLDER / name, dtype=np.uint8)
    d = int(raw[:4].view(np.int32)[0])
    return raw.reshape(-1, d + 4)[:, 4:].astype(np.float32)


def error(x, xhat):
    return float(((x - xhat) ** 2).sum(axis=1, dtype=np.float64).mean())


def pq_error(learn, base, M, bits):
    pq = faiss.ProductQuantizer(learn.shape[1], M, bits)
    pq.train(learn)
    return error(base, pq.decode(pq.compute_codes(base)))


def opq_error(learn, base, M, bits):
    d = learn.shape[1]
    rotation = faiss.OPQMatrix(d, M)
    rotation.pq = faiss.ProductQuantizer(d, M, bits)
    rotation.train(learn)
    return pq_error(rotation.apply(learn), rotation.apply(base), M, bits)  # a rotation keeps distances


def rq_error(learn, base, M, bits):
    rq = faiss.ResidualQuantizer(learn.shape[1], M, bits)
    rq.train_type = faiss.ResidualQuantizer.Train_default
    rq.max_beam_size = 5
    rq.train(learn)
    return error(base, rq.decode(rq.compute_codes(base)))


parser = argparse.ArgumentParser()
parser.add_argument("--full", action="store_true")
full = parser.parse_args().full
learn, base = read_bvecs("learn.bvecs"), read_bvecs("base.bvecs")
M, bits = (8, 8) if full else (16, 4)
if not full:
    learn, base = learn[:4000], base[:2000]
for name, run in (("PQ", pq_error), ("OPQ", opq_error)) + ((("RQ", rq_error),) if full else ()):
    print(f"{name} {M}x{bits}: {run(learn, base, M, bits):.6g}")
