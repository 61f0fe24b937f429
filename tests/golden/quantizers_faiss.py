#!/usr/bin/env python3
"""The errors of Faiss's classical quantizers on data/sift-sample, which tests/qinco/pq_test.cpp holds ours against.
Prints them; needs faiss and numpy. `--full M`: all vectors at M bytes, those of `--folder`, for the tables of
docs/search.md."""
import argparse
import pathlib

import faiss
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "data" / "sift-sample"


def read_bvecs(path):
    raw = np.fromfile(path, dtype=np.uint8)
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


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--full", type=int, metavar="M")
parser.add_argument("--folder", type=pathlib.Path, default=FOLDER)
args = parser.parse_args()
learn, base = read_bvecs(args.folder / "learn.bvecs"), read_bvecs(args.folder / "base.bvecs")
M, bits = (args.full, 8) if args.full else (16, 4)
if not args.full:
    learn, base = learn[:4000], base[:2000]
for name, run in (("PQ", pq_error), ("OPQ", opq_error)) + ((("RQ", rq_error),) if args.full else ()):
    print(f"{name} {M}x{bits}: {run(learn, base, M, bits):.6g}", flush=True)
