#!/usr/bin/env python3
"""QINCo in plain PyTorch: what the programs here measure as "PyTorch". Answers requests as worker.py describes.

The formulation anyone would write down first: every candidate goes through the whole step network. Encoding runs
without gradients at the batch size that is fastest here; a training step encodes at that size too, whatever its batch.
--beam_size, --candidates: by beam search, of which only so many candidates of each step go through its blocks.
--mode: fp32; tf32, its products rounded to TF32 on a GPU; bf16, under autocast to bfloat16. --compile: the step is
compiled by torch.compile, for one batch size. Vectors and codes begin and end in the host's memory, as ours do.
"""
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

    def blocks(self, z):
        for l in range(self.L):
            z = z + getattr(self, f"residual_block{l}")(z)
        return z

    def forward(self, c, xhat):
        return self.blocks(c + self.MLPconcat(torch.cat([c, xhat], dim=-1)))


def nearest(step, x, xhat):
    """The nearest of all candidates of a step: codes [n] and the new reconstruction [n,d]."""
    c = step.codebook.weight
    shape = (len(x), *c.shape)
    y = xhat[:, None] + step(c.expand(shape), xhat[:, None].expand(shape))
    codes = (x[:, None] - y).square_().sum(dim=-1).argmin(dim=1)
    return codes, y[torch.arange(len(x), device=x.device), codes]


def extend(step, x, xhat, kept, candidates):
    """The `kept` nearest of the candidates of x [n,d] with the reconstructions xhat [n,b,d] under way: the row of xhat
    and the code of each, [n,kept], and the new reconstructions [n,kept,d]."""
    c, d = step.codebook.weight, x.shape[1]
    of_codeword, of_xhat = step.MLPconcat.weight.split(d, dim=1)
    table, r = c + nn.functional.linear(c, of_codeword, step.MLPconcat.bias), xhat @ of_xhat.T
    target = x[:, None] - xhat
    tried = torch.cdist((target - r).flatten(0, 1), table).topk(candidates, dim=1, largest=False).indices
    tried = tried.view(len(x), -1)                                                                  # [n,b*candidates]
    y = step.blocks(table[tried] + r.repeat_interleave(candidates, dim=1)) + xhat.repeat_interleave(candidates, dim=1)
    best = (x[:, None] - y).square_().sum(dim=-1).topk(min(kept, y.shape[1]), dim=1, largest=False).indices
    return best // candidates, tried.gather(1, best), y.gather(1, best[..., None].expand(-1, -1, d))


class Model(nn.Module):
    def __init__(self, d, M, K, L, h):
        super().__init__()
        self.codebook0 = nn.Embedding(K, d)
        for m in range(1, M):
            self.add_module(f"step{m}", Step(d, K, L, h))
        self.steps = [getattr(self, f"step{m}") for m in range(1, M)]

    @torch.no_grad()
    def encode(self, x, nearest):
        """x [n,d] -> int64 codes [n,M]"""
        codes = torch.cdist(x, self.codebook0.weight).argmin(dim=1)
        all_codes, xhat = [codes], self.codebook0(codes)
        for step in self.steps:
            codes, xhat = nearest(step, x, xhat)
            all_codes.append(codes)
        return torch.stack(all_codes, dim=1)

    @torch.no_grad()
    def encode_beam(self, x, extend, beam_size, candidates):
        """x [n,d] -> int64 codes [n,M]"""
        codes = torch.cdist(x, self.codebook0.weight).topk(beam_size, dim=1, largest=False).indices[..., None]
        xhat = self.codebook0(codes[..., 0])
        for step in self.steps:
            kept = 1 if step is self.steps[-1] else beam_size
            rows, added, xhat = extend(step, x, xhat, kept, candidates)
            codes = torch.cat([codes.gather(1, rows[..., None].expand(-1, -1, codes.shape[2])), added[..., None]], dim=2)
        return codes[:, 0]

    def partials(self, codes):
        """int64 codes [n,M] -> the M partial reconstructions [n,d]"""
        xhat = [self.codebook0(codes[:, 0])]
        for step, k in zip(self.steps, codes.T[1:]):
            xhat.append(xhat[-1] + step(step.codebook(k), xhat[-1]))
        return xhat


class Peer:
    def __init__(self, inputs):
        self.device, self.mode, self.compiled = torch.device(inputs.device), inputs.mode, inputs.compile
        on_gpu = self.device.type == "cuda"
        torch.backends.cuda.matmul.allow_tf32 = self.mode == "tf32"
        self.beam_size, self.candidates = inputs.beam_size, inputs.candidates
        step = nearest if self.beam_size is None else extend
        self.step = torch.compile(step, dynamic=False) if self.compiled else step
        self.x = torch.from_numpy(inputs.x)
        self.training_x = self.x[:20000].to(self.device)
        self.codes = None if inputs.codes is None else torch.from_numpy(inputs.codes.astype(np.int64))
        if on_gpu:
            self.x = self.x.pin_memory()
            self.codes = None if self.codes is None else self.codes.pin_memory()
        self.model = Model(inputs.d, inputs.M, inputs.K, inputs.L, inputs.h)
        self.model.load_state_dict({name: torch.from_numpy(t.copy()) for name, t in inputs.tensors.items()})
        self.model.to(self.device)
        self.adam = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=on_gpu)
        self.position = 0
        self.decode_size = 1
        sizes = (1024,) if self.compiled else (256, 1024, 2048, 4096) if on_gpu else (1, 2, 4, 8, 16, 32, 64, 256, 1024)
        self.encode_size = worker.fastest(sizes, self.encode_rate)
        if self.codes is not None:
            sizes = (4096, 16384, 65536) if on_gpu else (64, 256, 1024, 4096, 16384)
            self.decode_size = worker.fastest(sizes, self.decode_rate)

    def encode_rate(self, size):
        n = min(len(self.x), max(size, 32))
        self.encode_size = size
        return n / worker.seconds(lambda: self.encode(n))

    def decode_rate(self, size):
        self.decode_size = size
        n = min(max(16384, size), len(self.codes))
        return n / worker.seconds(lambda: self.decode(n))

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mode == "bf16")

    def encode_batch(self, x):
        x = x.to(self.device, non_blocking=True)
        n = len(x)
        if self.compiled and n < self.encode_size:  # one shape, compiled once
            x = torch.cat([x, x[:1].expand(self.encode_size - n, -1)])
        with self.autocast():
            if self.beam_size is None:
                return self.model.encode(x, self.step)[:n]
            return self.model.encode_beam(x, self.step, self.beam_size, self.candidates)[:n]

    def encode_rows(self, x):
        return torch.cat(worker.in_batches(self.encode_size, len(x), lambda b, e: self.encode_batch(x[b:e])))

    def encode(self, n):
        return self.encode_rows(self.x[:n]).cpu().numpy()

    @torch.inference_mode()
    def decode(self, n):
        with self.autocast():
            return torch.cat(worker.in_batches(
                self.decode_size, n,
                lambda b, e: self.model.partials(self.codes[b:e].to(self.device, non_blocking=True))[-1])).cpu().numpy()

    def train(self, steps, batch):
        for _ in range(steps):
            if self.position + batch > len(self.training_x):
                self.position = 0
            x = self.training_x[self.position:self.position + batch]
            self.position += batch
            codes = self.encode_rows(x)
            with self.autocast():
                loss = sum((xhat - x).square().sum() for xhat in self.model.partials(codes)) / x.numel()
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main():
    def options(parser):
        parser.add_argument("--device", default="cpu")
        parser.add_argument("--mode", choices=["fp32", "tf32", "bf16"], default="fp32")
        parser.add_argument("--compile", action="store_true")
        parser.add_argument("--beam_size", type=int)
        parser.add_argument("--candidates", type=int, default=16)

    inputs = worker.Inputs(options)
    torch.set_num_threads(inputs.threads)
    peer = Peer(inputs)
    where = torch.cuda.get_device_name() + " " if inputs.device != "cpu" else ""
    worker.serve(f"PyTorch {torch.__version__} {where}{inputs.mode}{' compiled' if inputs.compile else ''} "
                 f"(batches: encode {peer.encode_size}, decode {peer.decode_size})", peer)


if __name__ == "__main__":
    main()
