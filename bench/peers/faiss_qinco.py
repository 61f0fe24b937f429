#!/usr/bin/env python3
"""Faiss's QINCo, through the Python API of its wheel: what compare.py measures as "Faiss". It encodes and decodes only.
Answers requests as worker.py describes."""
import faiss
import numpy as np

import worker


class Peer:
    def __init__(self, inputs):
        self.x = inputs.x
        self.codes = inputs.codes
        self.model = faiss.QINCo(inputs.d, inputs.K, inputs.L, inputs.M, inputs.h)
        self.load(inputs.tensors, inputs.M, inputs.L)
        self.decode_size = 1
        self.encode_size = worker.fastest((1, 2, 4, 8, 16, 32, 64, 256, 1024), self.encode_rate)
        if self.codes is not None:
            self.decode_size = worker.fastest((16, 64, 256, 1024, 4096, 16384), self.decode_rate)

    def load(self, tensors, M, L):
        self.model.codebook0.from_array(tensors["codebook0.weight"])
        for m in range(1, M):
            step, name = self.model.get_step(m - 1), f"step{m}."
            step.codebook.from_array(tensors[name + "codebook.weight"])
            step.MLPconcat.from_array(tensors[name + "MLPconcat.weight"], tensors[name + "MLPconcat.bias"])
            for l in range(L):
                block = step.get_residual_block(l)
                block.linear1.from_array(tensors[f"{name}residual_block{l}.0.weight"])
                block.linear2.from_array(tensors[f"{name}residual_block{l}.2.weight"])

    def encode_rate(self, size):
        self.encode_size = size
        n = max(size, 32)
        return n / worker.seconds(lambda: self.encode(n))

    def decode_rate(self, size):
        self.decode_size = size
        n = min(16384, len(self.codes))
        return n / worker.seconds(lambda: self.decode(n))

    def encode(self, n):
        return np.concatenate(worker.in_batches(
            self.encode_size, n, lambda b, e: self.model.encode(faiss.Tensor2D(self.x[b:e])).numpy()))

    def decode(self, n):
        return np.concatenate(worker.in_batches(
            self.decode_size, n, lambda b, e: self.model.decode(faiss.Int32Tensor2D(self.codes[b:e])).numpy()))


def main():
    inputs = worker.Inputs()
    faiss.omp_set_num_threads(inputs.threads)
    peer = Peer(inputs)
    description = f"Faiss {faiss.__version__} (batches: encode {peer.encode_size}"
    if inputs.codes is not None:
        description += f", decode {peer.decode_size}"
    worker.serve(description + ")", peer)


if __name__ == "__main__":
    main()
