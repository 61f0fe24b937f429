"""What the peer programs share: reading our files, and answering the requests of compare.py.

A worker reads one request per line and answers with one line:
    encode N        encode the first N vectors            -> seconds
    decode N        decode the first N rows of the codes  -> seconds
    train STEPS B   training steps on batches of B        -> seconds
    codes N FILE    int32 codes of the first N vectors    -> ok
    decoded N FILE  float32 vectors decoded from the codes given at the start -> ok
Vectors and codes are in scaled space throughout (divided by the model's db_scale), as the networks see them.
"""
import argparse
import json
import sys
import time

import numpy as np


def read_model(path):
    """(metadata, name -> float32 array) of a safetensors file."""
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        data = f.read()
    metadata = header.pop("__metadata__")
    assert all(entry["dtype"] == "F32" for entry in header.values()), "float32 tensors expected"
    return metadata, {name: np.frombuffer(data[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
                      for name, entry in header.items()}


def read_bvecs(path):
    rows = np.fromfile(path, np.uint8)
    d = int(rows[:4].view("<i4")[0])
    return rows.reshape(-1, 4 + d)[:, 4:].astype(np.float32)


class Inputs:
    """The files named on the command line, and what else `more_options` adds to its parser."""

    def __init__(self, more_options=lambda parser: None):
        parser = argparse.ArgumentParser()
        more_options(parser)
        parser.add_argument("--model", required=True)
        parser.add_argument("--data", required=True)
        parser.add_argument("--codes", help="raw int32 [n,M]; needed for decoding")
        parser.add_argument("--threads", type=int, required=True)
        parser.add_argument("--rows", type=int, default=0, help="repeat the data up to so many rows")
        args = parser.parse_args(namespace=self)
        self.metadata, self.tensors = read_model(args.model)
        self.d, self.M, self.K, self.L, self.h = (int(self.metadata[key]) for key in ("d", "M", "K", "L", "h"))
        self.x = read_bvecs(args.data) / np.float32(self.metadata["db_scale"])
        self.codes = np.fromfile(args.codes, np.int32).reshape(-1, self.M) if args.codes else None
        if args.rows:
            self.x = np.resize(self.x, (args.rows, self.d))
            self.codes = None if self.codes is None else np.resize(self.codes, (args.rows, self.M))


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fastest(sizes, rate):
    """The batch size with the highest rate(size); stops looking after two sizes that are 20% below the best."""
    best, best_rate, worse = None, 0, 0
    for size in sizes:
        r = max(rate(size), rate(size))
        if r > best_rate:
            best, best_rate = size, r
        worse = worse + 1 if r < 0.8 * best_rate else 0
        if worse == 2:
            break
    return best


def in_batches(size, n, work):
    """work(begin, end) over [0,n) in batches; its results as a list."""
    return [work(begin, min(begin + size, n)) for begin in range(0, n, size)]


def serve(description, peer):
    """Answers requests with peer.encode(n), peer.decode(n) (arrays) and peer.train(steps, batch)."""
    print("ready " + description, flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "encode":
            answer = seconds(lambda: peer.encode(int(arguments[0])))
        elif command == "decode":
            answer = seconds(lambda: peer.decode(int(arguments[0])))
        elif command == "train":
            answer = seconds(lambda: peer.train(int(arguments[0]), int(arguments[1])))
        elif command in ("codes", "decoded"):
            result = peer.encode(int(arguments[0])) if command == "codes" else peer.decode(int(arguments[0]))
            np.ascontiguousarray(result, np.int32 if command == "codes" else np.float32).tofile(arguments[1])
            answer = "ok"
        else:
            answer = "unknown request " + command
        print(answer, flush=True)
