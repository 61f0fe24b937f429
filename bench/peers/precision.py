#!/usr/bin/env python3
"""Encoding on every instruction set and at both precisions, beside PyTorch and Faiss: what exactness costs.

    bench/peers/precision.py --bin build/bench/bin        (needs torch and numpy; faiss where its wheel can be had)

For d=128 M=8 K=256 h=256 and L blocks a step: vectors/s (medians over rounds in which the programs take turns), the
ratio to the fastest of PyTorch and Faiss in fp32, the share of the peak that the product units reach at that moment,
the mean squared error, and the codes that differ from those of the widest vectors in fp32.
"""
import argparse
import importlib.util
import json
import os
import statistics
import sys

import numpy as np

import worker
from compare import DATA, HERE, Peer, cpu_model, make_model

D, M, K, H = 128, 8, 256, 256
JUDGED = 4000  # vectors whose codes are judged, fewer where a program is slow
ENOUGH = 15    # seconds that judging may take


def machine_isas():
    with open("/proc/cpuinfo") as file:
        flags = set(file.read().split())
    return ["reference"] + [isa for isa, flag in (("avx2", "avx2"), ("avx512", "avx512dq"), ("amx", "amx_bf16"))
                            if flag in flags]


def start(args, L):
    """Name -> (peer, the ISA whose peak it is held against)."""
    model, codes = make_model(args, L)
    arguments = ["--model", model, "--data", DATA, "--codes", codes]
    worker = [os.path.join(args.bin, "bench_qinco_worker")]
    programs = {}
    for isa in machine_isas():
        for precision in ("exact", "fast") if isa != "reference" else ("exact",):  # which has no screen
            name = f"QINCo {isa} {precision}"
            programs[name] = Peer(name, worker, arguments + ["--precision", precision], args.threads,
                                  {"QINCO_ISA": isa})
    if importlib.util.find_spec("torch"):
        for name, options in (("PyTorch fp32", []), ("PyTorch bf16", ["--mode", "bf16"])):
            command = [sys.executable, os.path.join(HERE, "torch_qinco.py"), *options]
            programs[name] = Peer(name, command, arguments[:4], args.threads, {})
    if importlib.util.find_spec("faiss"):
        command = [sys.executable, os.path.join(HERE, "faiss_qinco.py")]
        programs["Faiss"] = Peer("Faiss", command, arguments[:4], args.threads, {})
    return programs


def flop(L):
    """Per vector, with the linear parts folded into tables (docs/candidate_search.md)."""
    return (M - 1) * K * 2 * D * H * (2 * L - 1)


def measure(args, programs, L):
    counts = {}
    for name, peer in programs.items():
        pilot = peer.rate("encode 32", 32)
        counts[name] = int(min(20000, max(32, 32 * round(pilot * args.seconds / 32))))
    rates, shares = {name: [] for name in programs}, {name: [] for name in programs if name.startswith("QINCo")}
    for _ in range(args.rounds):
        for name, peer in programs.items():
            peak = float(peer.ask(f"peak {args.threads}")) if name in shares else None
            rates[name].append(peer.rate(f"encode {counts[name]}", counts[name]))
            if peak:
                shares[name].append(rates[name][-1] * flop(L) * 1e-9 / peak)
    return ({name: statistics.median(values) for name, values in rates.items()},
            {name: statistics.median(values) for name, values in shares.items()})


def judge(args, programs, rates, L):
    """Name -> (vectors judged, mean squared error in scaled space, share of codes unlike those in fp32)."""
    answer = os.path.join(args.work, "answer")
    codes = {}
    for name, peer in programs.items():
        n = int(min(JUDGED, max(64, rates[name] * ENOUGH)))
        peer.ask(f"codes {n} {answer}")
        codes[name] = np.fromfile(answer, np.int32).reshape(n, M)
    truth = codes[f"QINCo {[isa for isa in machine_isas() if isa != 'amx'][-1]} exact"]
    results = {}
    for name, mine in codes.items():
        both = min(len(truth), len(mine))
        mine[:both].tofile(answer)
        decoder = Peer("decoder", [os.path.join(args.bin, "bench_qinco_worker")],
                       ["--model", make_model(args, L)[0], "--data", DATA, "--codes", answer], args.threads, {})
        decoder.ask(f"decoded {both} {answer}.x")
        decoder.close()
        error = (np.fromfile(answer + ".x", np.float32).reshape(both, D) - vectors(args, L, both)) ** 2
        differ = float((mine[:both] != truth[:both]).mean())
        results[name] = both, float(error.sum(axis=1, dtype=np.float64).mean()), differ
    return results


def vectors(args, L, n):
    metadata, _ = worker.read_model(make_model(args, L)[0])
    return worker.read_bvecs(DATA)[:n] / np.float32(metadata["db_scale"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of qinco and bench_qinco_worker")
    parser.add_argument("--work", default="build/bench/peers", help="folder for models and results")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--L", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1, help="of one measurement, about")
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)
    rows = []
    for L in args.L:
        programs = start(args, L)
        rates, shares = measure(args, programs, L)
        judged = judge(args, programs, rates, L)
        fp32 = max((rates[name] for name in ("PyTorch fp32", "Faiss") if name in rates), default=None)
        print(f"\nL = {L}, {args.threads} thread(s), {cpu_model()}\n\n"
              f"| | vectors/s | to fp32 peer | of peak | MSE | codes unlike fp32's |\n|{'---|' * 6}")
        for name, peer in programs.items():
            n, error, differ = judged[name]
            row = {"L": L, "program": name, "vectors_per_second": rates[name], "judged": n, "mse": error,
                   "mismatch": differ, "share_of_peak": shares.get(name)}
            rows.append(row)
            ratio = f"{rates[name] / fp32:.2f}" if fp32 else "-"
            share = f"{100 * shares[name]:.0f}%" if name in shares else "-"
            print(f"| {name} | {rates[name]:,.0f} | {ratio} | {share} | {error:.5f} | {differ:.2e} of {n * M:,} |",
                  flush=True)
            peer.close()
    with open(os.path.join(args.work, "precision.json"), "w") as file:
        json.dump({"machine": cpu_model(), "threads": args.threads, "results": rows}, file, indent=1)


if __name__ == "__main__":
    main()
