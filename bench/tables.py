#!/usr/bin/env python3
"""Prints what bench/sift_photos.sh measured as markdown tables: bench/tables.py WORK"""
import json
import pathlib
import sys

NAMES = {"pq": "PQ", "opq": "OPQ", "rq": "RQ, beam 5"}
MODELS = {"q": "QINCo, L=2 h=256", "beam": "the same, trained by 4 x 4, coded by 8 x 16",
          "small": "QINCo, L=1 h=64", "lr": "QINCo-LR, L=1 h=64",
          "pq": "PQ-QINCo, 2 parts, L=1 h=64", "opq": "the same after OPQ"}
work = pathlib.Path(sys.argv[1])


def load(name):
    path = work / name
    return json.loads(path.read_text()) if path.exists() else None


def row(label, evaluation, train):
    recall, seconds = evaluation["recall"], evaluation["seconds"]
    if train is None:
        training = "-"
    else:
        vectors = train["sub_quantizers"][0]["nt"] if "sub_quantizers" in train else train["nt"]
        passes = sum(epoch.get("sub_quantizer", 0) == 0 for epoch in train["epochs"])
        minutes = sum(epoch["seconds"] for epoch in train["epochs"]) / 60
        training = f"{vectors * passes / 1e6:.1f} M vectors, {minutes:.0f} min"
    return (f"| {label} | {evaluation['mse']:,.0f} | {recall['1']:.3f} | {recall['10']:.3f} | {recall['100']:.3f} | "
            f"{evaluation['n'] / seconds['encode']:,.0f} | {evaluation['n'] / seconds['decode']:,.0f} | {training} |")


def quality(M):
    print(f"\n{M} bytes\n\n| | MSE | R@1 | R@10 | R@100 | encode/s | decode/s | training |\n|{'---|' * 8}")
    for names, suffix in ((NAMES, f"{M}-classic"), (MODELS, f"{M}")):
        for name, label in names.items():
            evaluation = load(f"{name}{suffix}.eval.json")
            if evaluation is not None:
                print(row(label, evaluation, load(f"{name}{suffix}.train.json")))


def two_stage(name):
    search = load(f"{name}.search.json")
    if search is None:
        return
    print(f"\n{name}: MSE {search['mse']:,.0f} decoded, {search['mse_fixed']:,.0f} by fixed codebooks\n")
    print(f"| npairs | nshort | short-list @1 | @10 | @100 | re-ranked @1 | @10 | @100 | queries/s |\n|{'---|' * 9}")
    for point in search["points"]:
        recalls = [f"{point[when][rank]:.3f}" for when in ("recall_before", "recall") for rank in ("1", "10", "100")]
        print(f"| {point.get('npairs', 0)} | {point['nshort']} | {' | '.join(recalls)} | {point['qps']:,.0f} |")


def curve(name):
    train = load(f"{name}.train.json")
    if train is None:
        return
    rq = f"{train['rq_val_mse']:,.0f}"
    print(f"\n{name}: validation MSE, RQ {rq}\n\n| epoch | minutes | MSE | to RQ |\n|{'---|' * 4}")
    seconds = 0
    for epoch in train["epochs"]:
        seconds += epoch["seconds"]
        print(f"| {epoch['epoch']} | {seconds / 60:.1f} | {epoch['val_mse']:,.0f} | "
              f"{100 * (epoch['val_mse'] / train['rq_val_mse'] - 1):+.1f}% |")


for size in (8, 16):
    quality(size)
for model in ("q8", "beam8", "small8", "small16"):
    two_stage(model)
for model in ("q8", "beam8", "small8", "small16"):
    curve(model)
