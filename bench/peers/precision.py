#!/usr/bin/env python3
"""Encoding and decoding on every instruction set and at both precisions, beside PyTorch and Faiss.

    bench/peers/precision.py --bin build/bench/bin        (needs torch and numpy; faiss where its wheel can be had)

For d=128 M=8 K=256 h=256 and L blocks a step: vectors/s (medians over rounds in which the programs take turns), the
ratio to the fastest of PyTorch and Faiss in fp32, the share of the peak that the product units reach at that moment,
the mean squared error, and the codes that differ from those of the widest vectors in fp32; of decoding vectors/s, the
ratio, and how far decoded vectors are from those of the widest vectors in fp32, relative to their length.
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


def widest():
    """The program whose arithmetic is the truth."""
    return f"QINCo {[isa for isa in machine_isas() if isa != 'amx'][-1]} exact"


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
            programs[name] = Peer(name, command, arguments, args.threads, {})
    if importlib.util.find_spec("faiss"):
        command = [sys.executable, os.path.join(HERE, "faiss_qinco.py")]
        programs["Faiss"] = Peer("Faiss", command, arguments, args.threads, {})
    return programs


def flop(L):
    """Per vector, with the linear parts folded into tables (docs/candidate_search.md)."""
    return (M - 1) * K * 2 * D * H * (2 * L - 1)


def count_of(args, peer, task, least):
    pilot = peer.rate(f"{task} {least}", least)
    return int(min(20000, max(least, least * round(pilot * args.seconds / least))))


def measure_decoding(args, programs):
    counts = {name: count_of(args, peer, "decode", 1024) for name, peer in programs.items()}
    rates = {name: [] for name in programs}
    for _ in range(args.rounds):
        for name, peer in programs.items():
            rates[name].append(peer.rate(f"decode {counts[name]}", counts[name]))
    return {name: statistics.median(values) for name, values in rates.items()}


def measure(args, programs, L):
    counts = {name: count_of(args, peer, "encode", 32) for name, peer in programs.items()}
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
    truth = codes[widest()]
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


def judge_decoding(args, programs):
    """Name -> the largest distance of a decoded vector from that in fp32, relative to its length."""
    answer, x = os.path.join(args.work, "answer"), {}
    for name, peer in programs.items():
        peer.ask(f"decoded {JUDGED} {answer}")
        x[name] = np.fromfile(answer, np.float32).reshape(JUDGED, D)
    truth = x[widest()]
    return {name: float((np.linalg.norm(mine - truth, axis=1) / np.linalg.norm(truth, axis=1)).max())
            for name, mine in x.items()}


def vectors(args, L, n):
    metadata, _ = worker.read_model(make_model(args, L)[0])
    return worker.read_bvecs(DATA)[:n] / np.float32(metadata["db_scale"])


def ratio(rates, name):
    """To the fastest of the peers in fp32."""
    peers = [rates[peer] for peer in ("PyTorch fp32", "Faiss") if peer in rates]
    return f"{rates[name] / max(peers):.2f}" if peers else "-"


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
        decoding, distances = measure_decoding(args, programs), judge_decoding(args, programs)
        print(f"\nL = {L}, {args.threads} thread(s), {cpu_model()}\n\n"
              f"| | vectors/s | to fp32 peer | of peak | MSE | codes unlike fp32's | decoded/s | to fp32 peer | "
              f"farthest from fp32's |\n|{'---|' * 9}")
        for name, peer in programs.items():
            n, error, differ = judged[name]
            row = {"L": L, "program": name, "vectors_per_second": rates[name], "judged": n, "mse": error,
                   "mismatch": differ, "share_of_peak": shares.get(name), "decoded_per_second": decoding[name],
                   "decoded_distance": distances[name]}
            rows.append(row)
            share = f"{100 * shares[name]:.0f}%" if name in shares else "-"
            print(f"| {name} | {rates[name]:,.0f} | {ratio(rates, name)} | {share} | {error:.5f} | "
                  f"{differ:.2e} of {n * M:,} | {decoding[name]:,.0f} | {ratio(decoding, name)} | "
                  f"{distances[name]:.1e} |", flush=True)
            peer.close()
    with open(os.path.join(args.work, "precision.json"), "w") as file:
        json.dump({"machine": cpu_model(), "threads": args.threads, "results": rows}, file, indent=1)


if __name__ == "__main__":
    main()
