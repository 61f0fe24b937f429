#!/usr/bin/env python3
"""An exhaustive scan of codes, ms a query at one thread: the kernel beside Faiss's indexes of the same code sizes.

    OMP_NUM_THREADS=1 bench/peers/flat_scan.py --bin build/bin

16 queries, 500,000 vectors, the 10 best. Needs bench_kernels (`./run bench` builds it), faiss and numpy. Which codes they
are does not matter to a scan: Faiss's come from random vectors. Faiss makes its tables within the time, the kernel's are
given (4 us a query at 8 codes). The programs take turns; the best of all rounds counts.
"""
import argparse
import json
import os
import subprocess
import time

import faiss
import numpy as np

QUERIES, VECTORS, K = 16, 500_000, 10


def faiss_index(key):
    x = np.random.default_rng(1).standard_normal((20_000, 128)).astype(np.float32)
    index = faiss.index_factory(128, key)
    if hasattr(index, "rq"):
        index.rq.max_beam_size = 1
    index.train(x)
    for _ in range(VECTORS // len(x)):
        index.add(x)
    return index


def kernel_round(binary):
    run = [binary, f"--benchmark_filter=scan/{QUERIES}x{VECTORS}.*/avx", "--benchmark_format=json"]
    cases = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)["benchmarks"]
    unit = {"ns": 1e-6, "us": 1e-3, "ms": 1.0}
    return {"kernel " + case["name"].split("/", 1)[1].removesuffix("/manual_time"):
            case["real_time"] * unit[case["time_unit"]] / QUERIES for case in cases}


def faiss_round(index, queries):
    start = time.perf_counter()
    index.search(queries, K)
    return (time.perf_counter() - start) * 1e3 / len(queries)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", required=True, help="folder of bench_kernels")
parser.add_argument("--rounds", type=int, default=5)
args = parser.parse_args()
faiss.omp_set_num_threads(1)
indexes = {key: faiss_index(key) for key in ("PQ8", "PQ16", "RQ8x8_Nqint8")}
some = np.random.default_rng(2).standard_normal((QUERIES, 128)).astype(np.float32)
best = {}
for _ in range(args.rounds):
    found = kernel_round(os.path.join(args.bin, "bench_kernels"))
    found.update({"Faiss " + key: faiss_round(index, some) for key, index in indexes.items()})
    for name, value in found.items():
        best[name] = min(value, best.get(name, value))
print("| | ms a query |\n|---|---:|")
for name, value in best.items():
    print(f"| {name} | {value:.3f} |")
