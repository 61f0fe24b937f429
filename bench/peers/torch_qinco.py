#!/usr/bin/env python3
"""QINCo in plain PyTorch on the CPU: what compare.py measures as "PyTorch". Answers requests as worker.py describes.

The formulation anyone would write down first: every candidate goes through the whole step network. Encoding runs
without gradients at the batch size that is fastest here; a training step encodes at that size too, whatever its batch.
`--bf16`: encoding under autocast to bfloat16.
"""
import sys

import numpy as np
import torch
from torch import nn

import worker


class Step(nn.Module):
    def __init__(self, d, K, L, h):
        super().__init__()
        self.codebook = nn.Embedding(K, d)
        self.MLPconcat = nn.Linear(2 * d, d)
        self.L = L
        for l in range(L):
            self.add_module(f"residual_block{l}", nn.Sequential(nn.Linear(d, h, bias=False), nn.ReLU(inplace=True),
                                                                nn.Linear(h, d, bias=False)))

    def forward(self, c, xhat):
        z = c + self.MLPconcat(torch.cat([c, xhat], dim=-1))
        for l in range(self.L):
            z = z + getattr(self, f"residual_block{l}")(z)
        return z


class Model(nn.Module):
    def __init__(self, d, M, K, L, h):
        super().__init__()
        self.codebook0 = nn.Embedding(K, d)
        for m in range(1, M):
            self.add_module(f"step{m}", Step(d, K, L, h))
        self.steps = [getattr(self, f"step{m}") for m in range(1, M)]

    @torch.inference_mode()
    def encode(self, x):
        """x [n,d] -> int64 codes [n,M]"""
        codes = torch.cdist(x, self.codebook0.weight).argmin(dim=1)
        all_codes, xhat = [codes], self.codebook0(codes)
        rows = torch.arange(len(x))
        for step in self.steps:
            c = step.codebook.weight
            shape = (len(x), *c.shape)
            y = xhat[:, None] + step(c.expand(shape), xhat[:, None].expand(shape))
            codes = (x[:, None] - y).square_().sum(dim=-1).argmin(dim=1)
            all_codes.append(codes)
            xhat = y[rows, codes]
        return torch.stack(all_codes, dim=1)

    def partials(self, codes):
        """int64 codes [n,M] -> the M partial reconstructions [n,d]"""
        xhat = [self.codebook0(codes[:, 0])]
        for step, k in zip(self.steps, codes.T[1:]):
            xhat.append(xhat[-1] + step(step.codebook(k), xhat[-1]))
        return xhat


class Peer:
    def __init__(self, inputs, bf16):
        self.bf16 = bf16
        self.x = torch.from_numpy(inputs.x)
        self.codes = None if inputs.codes is None else torch.from_numpy(inputs.codes.astype(np.int64))
        self.model = Model(inputs.d, inputs.M, inputs.K, inputs.L, inputs.h)
        self.model.load_state_dict({name: torch.from_numpy(t.copy()) for name, t in inputs.tensors.items()})
        self.adam = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.position = 0
        self.decode_size = 1
        self.encode_size = worker.fastest((1, 2, 4, 8, 16, 32, 64, 256, 1024), self.encode_rate)
        if self.codes is not None:
            self.decode_size = worker.fastest((64, 256, 1024, 4096, 16384), self.decode_rate)

    def encode_rate(self, size):
        n = max(size, 32)
        self.encode_size = size
        return n / worker.seconds(lambda: self.encode(n))

    def decode_rate(self, size):
        self.decode_size = size
        n = min(16384, len(self.codes))
        return n / worker.seconds(lambda: self.decode(n))

    def encode_rows(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return torch.cat(worker.in_batches(self.encode_size, len(x), lambda b, e: self.model.encode(x[b:e])))

    def encode(self, n):
        return self.encode_rows(self.x[:n]).numpy()

    @torch.inference_mode()
    def decode(self, n):
        return torch.cat(worker.in_batches(self.decode_size, n,
                                           lambda b, e: self.model.partials(self.codes[b:e])[-1])).numpy()

    def train(self, steps, batch):
        for _ in range(steps):
            if self.position + batch > len(self.x):
                self.position = 0
            x = self.x[self.position:self.position + batch]
            self.position += batch
            codes = self.encode_rows(x).clone()  # an ordinary tensor, out of inference mode
            loss = sum((xhat - x).square().sum() for xhat in self.model.partials(codes)) / x.numel()
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()


def main():
    bf16 = "--bf16" in sys.argv
    if bf16:
        sys.argv.remove("--bf16")
    inputs = worker.Inputs()
    torch.set_num_threads(inputs.threads)
    peer = Peer(inputs, bf16)
    worker.serve(f"PyTorch {torch.__version__}{' bf16' if bf16 else ''} (batches: encode {peer.encode_size}, decode {peer.decode_size})", peer)


if __name__ == "__main__":
    main()
