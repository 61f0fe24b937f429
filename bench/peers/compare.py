#!/usr/bin/env python3
"""Times QINCo (d=128 M=8 K=256 L=2 h=256) here, in PyTorch and in Faiss: the same model, data and threads.

    bench/peers/compare.py --bin build/bench/bin        (needs torch and numpy; faiss where its wheel can be had)

With --beam_size and --candidates encoding, in training too, is by beam search, which Faiss does not have.

Every program first finds its own best batch sizes, and the peers their best allocator settings; their codes and
decoded vectors must agree with ours. Then they take turns, each round every program once, so that a noisy machine is
noisy for all; rates are medians over the rounds.
"""
import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "..", "data", "sift-sample", "learn.bvecs")
# Peers free and allocate large temporaries all the time; by default glibc returns such blocks to the kernel each time.
ALLOCATORS = {"default malloc": {},
              "malloc keeps large blocks": {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TOP_PAD_": str(1 << 28),
                                            "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}}
AGREE = 512           # vectors whose codes and reconstructions are compared
TRAIN_BATCH = 1024


class Peer:
    """A worker process (worker.py describes the requests)."""

    def __init__(self, name, command, arguments, threads, environment):
        self.name = name
        self.process = subprocess.Popen(
            command + arguments + ["--threads", str(threads)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment})
        ready = self.process.stdout.readline().strip()
        if not ready.startswith("ready "):
            sys.exit(f"compare.py: {name} did not start")
        self.description = ready[len("ready "):]

    def ask(self, request):
        print(request, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if answer != "ok" and not answer.replace(".", "").replace("e-", "").isdigit():
            sys.exit(f"compare.py: {self.name}: {request}: {answer or 'no answer'}")
        return answer

    def rate(self, request, count):
        time.sleep(0.2)  # spinning threads of the worker before have gone to sleep
        return count / float(self.ask(request))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def make_model(args, L=2, device="cpu"):
    """A briefly trained model, and the codes of its data."""
    model, codes = os.path.join(args.work, f"model_L{L}.safetensors"), os.path.join(args.work, f"codes_L{L}.i32")
    if not os.path.exists(model):
        subprocess.run([os.path.join(args.bin, "qinco"), "train", "--quiet", "--training_data", DATA, "--model", model,
                        "--nt", "10000", "--nval", "1000", "--max_epochs", "1", "--M", "8", "--K", "256", "--L", str(L),
                        "--h", "256", "--device", device], check=True)
    ours = Peer("QINCo", [os.path.join(args.bin, "bench_qinco_worker")],
                ["--model", model, "--data", DATA, "--device", device],
                os.cpu_count(), {})
    ours.ask(f"codes 20000 {codes}")
    ours.close()
    return model, codes


def start_fastest(name, command, arguments, threads):
    """The peer under the allocator settings it encodes fastest with."""
    best, best_rate = None, 0
    for setting, environment in ALLOCATORS.items():
        peer = Peer(name, command, arguments, threads, environment)
        peer.description += ", " + setting
        rate = max(peer.rate("encode 128", 128) for _ in range(2))
        slower = best if rate > best_rate else peer
        if rate > best_rate:
            best, best_rate = peer, rate
        if slower:
            slower.close()
    return best


def start(args, model, codes, threads):
    arguments = ["--model", model, "--data", DATA, "--codes", codes]
    others = [("PyTorch", "torch"), ("Faiss", "faiss")]
    if args.beam_size:
        arguments += ["--beam_size", str(args.beam_size), "--candidates", str(args.candidates)]
        others = others[:1]
    peers = [Peer("QINCo", [os.path.join(args.bin, "bench_qinco_worker")], arguments, threads, {})]
    for name, module in others:
        if importlib.util.find_spec(module) is None:
            print(f"{name}: no module '{module}' in {sys.executable}; skipped")
            continue
        command = [sys.executable, os.path.join(HERE, module + "_qinco.py")]
        peers.append(start_fastest(name, command, arguments, threads))
    return peers


def check_agreement(args, peers):
    """Codes may differ where two candidates are nearly equally far; reconstructions only by rounding."""
    results = {}
    for peer in peers:
        path = os.path.join(args.work, "answer")
        peer.ask(f"codes {AGREE} {path}")
        codes = np.fromfile(path, np.int32).reshape(AGREE, -1)
        peer.ask(f"decoded {AGREE} {path}")
        results[peer.name] = codes, np.fromfile(path, np.float32).reshape(AGREE, -1)
    codes, x = results["QINCo"]
    for name, (peer_codes, peer_x) in list(results.items())[1:]:
        rows = int((peer_codes != codes).any(axis=1).sum())
        error = float(np.abs(peer_x - x).max() / np.abs(x).max())
        print(f"  {name}: {rows} of {AGREE} vectors coded differently, decoded values differ by {error:.1e} at most")
        if not (rows <= AGREE // 50 and error <= 1e-4):
            sys.exit(f"compare.py: {name} does not compute the same model")


def measure(args, peers, task):
    """Median rate of each peer, in vectors per second."""
    if task == "train":
        peers = [peer for peer in peers if peer.name != "Faiss"]
    request, counts = {}, {}
    for peer in peers:
        if task == "train":
            counts[peer.name], request[peer.name] = TRAIN_BATCH, f"train 1 {TRAIN_BATCH}"
            peer.rate(request[peer.name], TRAIN_BATCH)
        else:
            pilot = peer.rate(f"{task} 256", 256)
            counts[peer.name] = int(min(20000, max(256, 256 * round(pilot * args.seconds / 256))))
            request[peer.name] = f"{task} {counts[peer.name]}"
    rates = {peer.name: [] for peer in peers}
    for _ in range(args.rounds):
        for peer in peers:
            rates[peer.name].append(peer.rate(request[peer.name], counts[peer.name]))
    return {name: statistics.median(values) for name, values in rates.items()}


def markdown(rows, descriptions):
    names = list(descriptions)
    lines = ["| vectors/s | threads | " + " | ".join(names) + " | QINCo / fastest peer |",
             "|---|---|" + "---|" * (len(names) + 1)]
    for row in rows:
        cells = [f"{row['rates'][name]:,.0f}" if name in row["rates"] else "-" for name in names]
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else "-"
        lines.append(f"| {row['task']} | {row['threads']} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join(lines) + "\n\n" + "; ".join([cpu_model(), *descriptions.values()]) + "\n"


def cpu_model():
    with open("/proc/cpuinfo") as f:
        models = [line.split(": ", 1)[1].strip() for line in f if line.startswith("model name")]
    return f"{len(models)} cores of {models[0]}" if models else "unknown CPU"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of qinco and bench_qinco_worker")
    parser.add_argument("--work", default="build/bench/peers", help="folder for the model, codes and results")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count()}))
    parser.add_argument("--tasks", nargs="+", default=["encode", "decode", "train"])
    parser.add_argument("--beam_size", type=int)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of one measurement, about")
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)

    model, codes = make_model(args)
    rows, descriptions = [], {}
    for threads in args.threads:
        peers = start(args, model, codes, threads)
        print(f"{threads} thread(s): " + "; ".join(peer.description for peer in peers), flush=True)
        descriptions.update((peer.name, peer.description) for peer in peers)
        check_agreement(args, peers)
        for task in args.tasks:
            rates = measure(args, peers, task)
            others = [rate for name, rate in rates.items() if name != "QINCo"]
            ratio = rates["QINCo"] / max(others) if others else None
            rows.append({"task": task, "threads": threads, "rates": rates, "ratio": ratio})
            print(f"  {task}: " + ", ".join(f"{name} {rate:,.0f}/s" for name, rate in rates.items()), flush=True)
        for peer in peers:
            peer.close()

    table = markdown(rows, descriptions)
    print("\n" + table)
    with open(os.path.join(args.work, "peers.md"), "w") as f:
        f.write(table)
    with open(os.path.join(args.work, "peers.json"), "w") as f:
        json.dump({"machine": cpu_model(), "programs": descriptions, "results": rows}, f, indent=1)


if __name__ == "__main__":
    main()
