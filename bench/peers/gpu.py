#!/usr/bin/env python3
"""Encoding, decoding and training on a GPU, ours beside PyTorch's plain formulation in its modes.

    bench/peers/gpu.py --bin build/gpu/bin --work OUT        (numpy needed; torch with CUDA, or only ours is measured)

d=128 M=8 K=256 L=2 h=256. Vectors and codes begin and end in the host's memory, training vectors lie on the device.
Rates are medians over rounds. One program runs at a time: each holds the device's memory. What is there so far is
written to OUT/peers.json and OUT/peers.md after each program.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

import numpy as np

from compare import AGREE, DATA, HERE, TRAIN_BATCH, Peer, make_model

MODES = {"fp32": ["--mode", "fp32"], "tf32": ["--mode", "tf32"], "bf16": ["--mode", "bf16"],
         "bf16 compiled": ["--mode", "bf16", "--compile"], "tf32 compiled": ["--mode", "tf32", "--compile"]}
TASKS = ("encode", "decode", "train")
BEAM, BEAM_OPTIONS = ", beam of 4 with 4 candidates", ["--beam_size", "4", "--candidates", "4"]
KERNEL_BY_KERNEL = ", kernel by kernel"  # training without CUDA graphs


def programs(args):
    """Name -> command, of what can be measured here."""
    worker = [os.path.join(args.bin, "bench_qinco_worker"), "--device", args.device]
    fast = [*worker, "--precision", "fast"]
    all_programs = {"QINCo exact": worker, "QINCo fast": fast, "QINCo" + BEAM: [*worker, *BEAM_OPTIONS]}
    if args.device != "cpu":
        all_programs |= {"QINCo exact" + KERNEL_BY_KERNEL: worker, "QINCo fast" + KERNEL_BY_KERNEL: fast}
    kind = args.device.split(":")[0]
    found = subprocess.run([sys.executable, "-c", f"import torch; torch.zeros(1, device='{kind}')"], capture_output=True)
    if found.returncode != 0:
        print(f"PyTorch: {sys.executable} has none that reaches the device; skipped", flush=True)
        return all_programs
    torch = [sys.executable, os.path.join(HERE, "torch_qinco.py"), "--device", kind]
    all_programs |= {"PyTorch " + mode: [*torch, *MODES[mode]] for mode in args.modes}
    return all_programs | {"PyTorch fp32" + BEAM: [*torch, *MODES["fp32"], *BEAM_OPTIONS]}


def rates_of(args, peer):
    """Task -> the median of vectors per second; of what differs from the program's other rows."""
    rates = {}
    for task in ("train",) if peer.name.endswith(KERNEL_BY_KERNEL) else TASKS:
        def request(count, task=task):
            return f"train {count // TRAIN_BATCH} {TRAIN_BATCH}" if task == "train" else f"{task} {count}"

        count = min(args.rows, args.pilot)
        peer.rate(request(count), count)  # the first one prepares
        pilot = peer.rate(request(count), count)
        most = 1 << 30 if task == "train" else args.rows
        count = int(min(most, max(count, pilot * args.seconds))) // TRAIN_BATCH * TRAIN_BATCH or count
        rates[task] = statistics.median(peer.rate(request(count), count) for _ in range(args.rounds))
    return rates


def answers(args, peer):
    path = os.path.join(args.work, "answer")
    peer.ask(f"codes {AGREE} {path}")
    codes = np.fromfile(path, np.int32).reshape(AGREE, -1)
    peer.ask(f"decoded {AGREE} {path}")
    decoded = np.fromfile(path, np.float32).reshape(AGREE, -1)
    os.remove(path)
    return codes, decoded


def judge(row, truth, mine):
    """How the program's answers differ from ours by the same search; in single precision both must be the same model's."""
    row["coded_differently"] = int((mine[0] != truth[0]).any(axis=1).sum())
    row["decoded_difference"] = float(np.abs(mine[1] - truth[1]).max() / np.abs(truth[1]).max())
    if row["program"] in ("QINCo exact", "PyTorch fp32", "PyTorch fp32" + BEAM):
        row["agrees"] = row["coded_differently"] <= AGREE // 50 and row["decoded_difference"] <= 1e-4


def search_of(program):
    return BEAM if program.endswith(BEAM) else ""


def markdown(rows):
    ours = {}
    for row in rows:
        ours.setdefault(search_of(row["program"]), row["rates"])  # the first is exact
    lines = ["| | encode/s | decode/s | train/s | ours (exact) to it: encode | decode | train | coded differently |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        rates, exact = row["rates"], ours[search_of(row["program"])]
        cells = [f"{rates[task]:,.0f}" if task in rates else "" for task in TASKS]
        cells += [f"{exact[task] / rates[task]:.2f}" if task in rates else "" for task in TASKS]
        lines.append(f"| {row['program']} | " + " | ".join(cells) + f" | {row['coded_differently']} of {AGREE} |")
    return "\n".join(lines) + "\n\n" + "\n".join("- " + row["description"] for row in rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of qinco and bench_qinco_worker")
    parser.add_argument("--work", required=True, help="folder for the model, codes and results")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=list(MODES))
    parser.add_argument("--rows", type=int, default=262144, help="vectors and codes to encode and decode, at most")
    parser.add_argument("--pilot", type=int, default=8192, help="vectors of a first measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement, about")
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)

    model, codes = make_model(args, device=args.device)
    arguments = ["--model", model, "--data", DATA, "--codes", codes, "--rows", str(args.rows)]
    rows, truth = [], {}
    for name, command in programs(args).items():
        environment = {"QINCO_CUDA_GRAPHS": "0" if name.endswith(KERNEL_BY_KERNEL) else "1"}
        peer = Peer(name, command, arguments, os.cpu_count(), environment)
        row = {"program": name, "description": peer.description}
        mine = answers(args, peer)
        judge(row, truth.setdefault(search_of(name), mine), mine)
        row["rates"] = rates_of(args, peer)
        peer.close()
        rows.append(row)
        print(f"{name}: " + ", ".join(f"{task} {rate:,.0f}/s" for task, rate in row["rates"].items()), flush=True)
        with open(os.path.join(args.work, "peers.md"), "w") as file:
            file.write(markdown(rows))
        with open(os.path.join(args.work, "peers.json"), "w") as file:
            json.dump(rows, file, indent=1)
    wrong = [row["program"] for row in rows if not row.get("agrees", True)]
    if wrong:
        sys.exit("gpu.py: not the same model as ours: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
