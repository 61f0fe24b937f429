#!/usr/bin/env python3
"""Recall@1 against queries per second on one thread: IVF-QINCo beside Faiss's IVF indexes of the same code size.

    bench/peers/search.py --bin build/bin --data DIR --model ivf8.safetensors --index ivf8.index --work DIR

DIR holds learn.bvecs, base.bvecs, query.bvecs, groundtruth.ivecs. Needs faiss and numpy; matplotlib for the drawing.
Faiss's indexes are trained once and kept in --work. The programs take turns, all settings once a round, so that a
noisy machine is noisy for all; rates are medians over the rounds.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

import faiss
import numpy as np

K = 10  # neighbours asked for, or nshort if that is less


def read_vecs(path, dtype):
    raw = np.fromfile(path, np.uint8)
    width = 4 + int(raw[:4].view(np.int32)[0]) * np.dtype(dtype).itemsize
    return np.ascontiguousarray(raw.reshape(-1, width)[:, 4:]).view(dtype)


def faiss_index(args, key):
    path = os.path.join(args.work, key.replace(",", "-") + ".faiss")
    if not os.path.exists(path):
        print(f"training {key}", flush=True)
        index = faiss.index_factory(128, key)
        index.train(read_vecs(f"{args.data}/learn.bvecs", np.uint8).astype(np.float32))
        index.add(read_vecs(f"{args.data}/base.bvecs", np.uint8).astype(np.float32))
        faiss.write_index(index, path)
    return faiss.read_index(path)


def faiss_round(args, index, queries, nearest):
    points = []
    for nprobe in map(int, args.nprobe.split(",")):
        index.nprobe = nprobe
        start = time.perf_counter()
        _, ids = index.search(queries, K)
        seconds = time.perf_counter() - start
        points.append({"nprobe": nprobe, "recall": float((ids[:, 0] == nearest).mean()), "seconds": seconds})
    return points


def our_round(args):
    """Points whose candidates the scan chooses, and those where the pairwise decoder does."""
    report = os.path.join(args.work, "search.json")
    subprocess.run([os.path.join(args.bin, "qinco"), "index", "search", "--quiet", "--threads", "1", "--model",
                    args.model, "--index", args.index, "--queries", f"{args.data}/query.bvecs", "--groundtruth",
                    f"{args.data}/groundtruth.ivecs", "--k", str(K), "--nprobe", args.nprobe, "--nshort", args.nshort,
                    "--npairs", args.npairs, "--precision", args.precision, "--json", report], check=True)
    with open(report) as file:
        points = json.load(file)["points"]
    return [[{"nprobe": point["nprobe"], "npairs": point["npairs"], "nshort": point["nshort"],
              "recall": point["recall"]["1"], "seconds": point["seconds"]["total"], "scan": point["seconds"]["scan"]}
             for point in points if (point["npairs"] > 0) == pairwise] for pairwise in (False, True)]


def median_of(rounds, queries):
    """The points of several rounds as one list, with queries per second of the median times."""
    points = []
    for same in zip(*rounds):
        point = dict(same[0])
        for what in {"seconds", "scan"} & set(point):
            median = statistics.median(other[what] for other in same)
            point["qps" if what == "seconds" else "scan_qps"] = queries / median
            del point[what]
        points.append(point)
    return points


def pareto(points):
    """Those that no other one beats in both recall and rate, by rising recall."""
    best, rate = [], 0.0
    for point in sorted(points, key=lambda each: (-each["recall"], -each["qps"])):
        if point["qps"] > rate:
            best.append(point)
            rate = point["qps"]
    return best[::-1]


def print_tables(series):
    print("\n| index | nprobe | npairs | nshort | recall@1 | queries/s | scan alone |\n|---|---|---|---|---|---|---|")
    for name, points in series.items():
        for point in points if "nshort" not in points[0] else pareto(points):
            scan = f"{point['scan_qps']:,.0f}" if "scan_qps" in point else "the same"
            print(f"| {name} | {point['nprobe']} | {point.get('npairs') or ''} | {point.get('nshort', '')} | "
                  f"{point['recall']:.4f} | {point['qps']:,.0f} | {scan} |")


def draw(series, path):
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib: no drawing")
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "qinco"
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    for (name, points), marker in zip(series.items(), "os^v"):
        line = pareto(points)
        axes.plot([point["recall"] for point in line], [point["qps"] for point in line], marker=marker, label=name)
    axes.set(xlabel="1-recall@1", ylabel="queries per second, one thread", yscale="log")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--bin", required=True, help="folder of the program qinco")
parser.add_argument("--data", required=True)
parser.add_argument("--model", required=True, help="an IVF-QINCo model of 1024 centroids")
parser.add_argument("--index", required=True, help="its index of the base")
parser.add_argument("--work", required=True)
parser.add_argument("--bytes", type=int, default=8, help="codes of a vector in the model")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--nprobe", default="1,4,16,64", help="lists visited")
parser.add_argument("--nshort", default="2,5,10,20,50,100,200", help="candidates that ours decodes")
parser.add_argument("--npairs", default="0,20,50", help="candidates of which ours has the pairwise decoder choose")
parser.add_argument("--precision", default="exact", choices=["exact", "fast"], help="that ours decodes with")
parser.add_argument("--name", help="of the results in --work (default: search_N_bytes, or search_N_bytes_fast)")
parser.add_argument("--train-only", action="store_true", help="make Faiss's indexes and stop")
args = parser.parse_args()
keys = (f"IVF1024,PQ{args.bytes}", f"IVF1024,RQ{args.bytes}x8_Nqint8")
indexes = {key: faiss_index(args, key) for key in keys}
if not args.train_only:
    faiss.omp_set_num_threads(1)
    queries = read_vecs(f"{args.data}/query.bvecs", np.uint8).astype(np.float32)
    nearest = read_vecs(f"{args.data}/groundtruth.ivecs", np.int32)[:, 0]
    ours = ("IVF1024 QINCo" + (", fast" if args.precision == "fast" else ""), "the same, pairwise decoder")
    rounds = {**{name: [] for name in ours}, **{"Faiss " + key: [] for key in keys}}
    for _ in range(args.rounds):
        for name, points in zip(ours, our_round(args)):
            rounds[name].append(points)
        for key, index in indexes.items():
            rounds["Faiss " + key].append(faiss_round(args, index, queries, nearest))
    series = {name: median_of(each, len(queries)) for name, each in rounds.items() if each[0]}
    suffix = "_fast" if args.precision == "fast" else ""
    results = os.path.join(args.work, args.name or f"search_{args.bytes}_bytes{suffix}")
    with open(results + ".json", "w") as file:
        json.dump(series, file, indent=1)
    print_tables(series)
    draw(series, results + ".svg")
