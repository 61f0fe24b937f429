"""Golden arrays for QINCo and QINCo-LR, made with PyTorch: what tests/qinco/golden_test.cpp compares against.

Run from anywhere:  python3 tests/golden/model_qinco_golden.py      (needs torch and numpy; a minute on one core)

For each variant it writes two files beside itself:
  <variant>_step.safetensors   d=16: the state of a model, and everything computed from it on one batch: f_1, codes, all
                               partial reconstructions, loss, the gradient of every parameter; then the parameters
                               after 1, 2 and 10 Adam steps on consecutive batches.
  <variant>_losses.safetensors d=128: the initial state and the losses of 50 training batches.
Data: the first d values of rows [first_row, ...) of data/sift-sample/learn.bvecs, batch b holding the rows
[first_row + b*B, first_row + (b+1)*B). first_row and the seed are those, tried in order, for which no arg-min is a near
tie, so that single precision rounding cannot change a code.
"""

import json
import os
import struct

import numpy as np
import torch
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
LEARN = os.path.join(HERE, "..", "..", "data", "sift-sample", "learn.bvecs")
LEARNING_RATE = 1e-3
MIN_GAP = 3e-5  # smallest (second - best) / best squared distance that is accepted


class ResidualBlock(nn.Sequential):
    """relu MLP d -> h -> d without biases; its output is added to its input."""

    def __init__(self, d, h):
        super().__init__(nn.Linear(d, h, bias=False), nn.ReLU(), nn.Linear(h, d, bias=False))


class Step(nn.Module):
    def __init__(self, d, K, L, h, lowrank):
        super().__init__()
        self.codebook = nn.Embedding(K, d)
        if lowrank:
            self.MLPconcat = nn.Sequential(nn.Linear(2 * d, h, bias=False), nn.Linear(h, d, bias=False))
        else:
            self.MLPconcat = nn.Linear(2 * d, d)
        self.L = L
        for l in range(L):
            self.add_module(f"residual_block{l}", ResidualBlock(d, h))

    def forward(self, c, xhat):
        z = c + self.MLPconcat(torch.cat([c, xhat], dim=-1))
        for l in range(self.L):
            z = z + getattr(self, f"residual_block{l}")(z)
        return z


class Model(nn.Module):
    def __init__(self, d, M, K, L, h, lowrank):
        super().__init__()
        self.M = M
        self.codebook0 = nn.Embedding(K, d)
        for m in range(1, M):
            self.add_module(f"step{m}", Step(d, K, L, h, lowrank))

    def codebook(self, m):
        return self.codebook0 if m == 0 else getattr(self, f"step{m}").codebook

    @torch.no_grad()
    def encode(self, x):
        """Codes [n,M] and the smallest relative gap between the best and the second candidate."""
        codes, gap = [], 1.0
        xhat = torch.zeros_like(x)
        for m in range(self.M):
            c = self.codebook(m).weight
            if m == 0:
                y = c[None, :, :].expand(len(x), -1, -1)
            else:
                shape = (len(x), *c.shape)
                y = xhat[:, None] + getattr(self, f"step{m}")(c[None].expand(shape), xhat[:, None].expand(shape))
            distances = ((x[:, None] - y) ** 2).sum(dim=-1)
            best = torch.topk(distances, 2, largest=False).values
            gap = min(gap, ((best[:, 1] - best[:, 0]) / best[:, 0]).min().item())
            ids = distances.argmin(dim=1)
            codes.append(ids)
            xhat = y[torch.arange(len(x)), ids]
        return torch.stack(codes, dim=1), gap

    def decode_partials(self, codes):
        xhat = self.codebook0(codes[:, 0])
        partials = [xhat]
        for m in range(1, self.M):
            step = getattr(self, f"step{m}")
            xhat = xhat + step(step.codebook(codes[:, m]), xhat)
            partials.append(xhat)
        return partials

    def loss(self, x, codes):
        return sum(((p - x) ** 2).sum() for p in self.decode_partials(codes)) / x.numel()


def read_rows(first, count, d):
    rows = np.fromfile(LEARN, dtype=np.uint8).reshape(-1, 4 + 128)
    return torch.from_numpy(rows[first : first + count, 4 : 4 + d].astype(np.float32))


def residual_codebooks(x, M, K, iterations=10):
    """k-means per step on the residuals, from the first K rows: a stand-in for the RQ initialisation."""
    books, residual = [], x.double()
    for _ in range(M):
        c = residual[:K].clone()
        for _ in range(iterations):
            ids = torch.cdist(residual, c).argmin(dim=1)
            for k in range(K):
                if (ids == k).any():
                    c[k] = residual[ids == k].mean(dim=0)
        books.append(c)
        residual = residual - c[torch.cdist(residual, c).argmin(dim=1)]
    return books


def make_model(config, seed, dtype):
    torch.manual_seed(seed)
    model = Model(config["d"], config["M"], config["K"], config["L"], config["h"], config["lowrank"])
    sample = read_rows(20000, 4000, config["d"])
    for m, c in enumerate(residual_codebooks(sample, config["M"], config["K"])):
        model.codebook(m).weight.data.copy_(c / config["db_scale"])
    return model.to(dtype)


def train(config, seed, first_row, dtype, steps, keep=()):
    """Trains `steps` batches; returns losses, the smallest gap, all codes and copies of the parameters at `keep`."""
    model = make_model(config, seed, dtype)
    adam = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    losses, codes_seen, kept, gap = [], [], {}, 1.0
    for b in range(steps):
        x = read_rows(first_row + b * config["B"], config["B"], config["d"]).to(dtype) / config["db_scale"]
        codes, batch_gap = model.encode(x)
        gap = min(gap, batch_gap)
        loss = model.loss(x, codes)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
        codes_seen.append(codes)
        if b + 1 in keep:
            kept[b + 1] = {k: v.detach().clone() for k, v in model.named_parameters()}
    return losses, gap, torch.cat(codes_seen), kept


def choose_run(config, steps):
    """The first (seed, first_row) without a near tie, on which single and double precision pick the same codes."""
    for seed in range(200):
        first_row = 25 * seed
        losses, gap, codes, _ = train(config, seed, first_row, torch.float32, steps)
        if gap < MIN_GAP:
            continue
        exact, _, exact_codes, _ = train(config, seed, first_row, torch.float64, steps)
        if torch.equal(codes, exact_codes):
            spread = max(abs(a - b) / b for a, b in zip(losses, exact))
            print(f"  seed {seed}: smallest gap {gap:.1e}, float against double losses {spread:.1e}")
            return seed, first_row, losses
    raise RuntimeError("every seed met a near tie")


def write_safetensors(path, tensors, metadata):
    names = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64", np.dtype(np.int32): "I32", np.dtype(np.uint8): "U8"}
    header, blobs, offset = {"__metadata__": {k: str(v) for k, v in metadata.items()}}, [], 0
    for name, value in tensors.items():
        value = np.ascontiguousarray(value.detach().numpy() if isinstance(value, torch.Tensor) else value)
        header[name] = {
            "dtype": names[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [offset, offset + value.nbytes],
        }
        blobs.append(value.tobytes())
        offset += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    print(f"  {os.path.basename(path)}: {os.path.getsize(path)} bytes")


def metadata_of(config, seed, first_row):
    return {**config, "seed": seed, "first_row": first_row, "lr": LEARNING_RATE, "torch": torch.__version__}


def write_step_file(name, config):
    seed, first_row, _ = choose_run(config, 10)
    model = make_model(config, seed, torch.float32)
    x = read_rows(first_row, config["B"], config["d"]) / config["db_scale"]
    tensors = {f"param.{k}": v.detach().clone() for k, v in model.named_parameters()}
    codes, _ = model.encode(x)
    tensors["codes"] = codes.to(torch.int32)
    step1 = model.step1
    tensors["f1"] = step1(step1.codebook(codes[:, 1]), model.codebook0(codes[:, 0]))
    for m, partial in enumerate(model.decode_partials(codes)):
        tensors[f"partial{m}"] = partial
    loss = model.loss(x, codes)
    loss.backward()
    tensors["loss"] = np.array([loss.item()])
    for k, v in model.named_parameters():
        tensors[f"grad.{k}"] = v.grad
    _, _, _, kept = train(config, seed, first_row, torch.float32, 10, keep=(1, 2, 10))
    for step, parameters in kept.items():
        tensors.update({f"adam{step}.{k}": v for k, v in parameters.items()})
    write_safetensors(os.path.join(HERE, f"{name}_step.safetensors"), tensors, metadata_of(config, seed, first_row))


def write_losses_file(name, config):
    seed, first_row, losses = choose_run(config, 50)
    model = make_model(config, seed, torch.float32)
    tensors = {f"param.{k}": v for k, v in model.named_parameters()}
    tensors["losses"] = np.array(losses)
    write_safetensors(os.path.join(HERE, f"{name}_losses.safetensors"), tensors, metadata_of(config, seed, first_row))


def main():
    torch.set_num_threads(1)
    for name, lowrank in (("qinco", 0), ("qinco_lr", 1)):
        print(name)
        small = {"d": 16, "M": 4, "K": 16, "L": 2, "h": 24, "lowrank": lowrank, "B": 32, "db_scale": 128.0}
        write_step_file(name, small)
        real = {"d": 128, "M": 4, "K": 16, "L": 2, "h": 32, "lowrank": lowrank, "B": 32, "db_scale": 255.0}
        write_losses_file(name, real)


if __name__ == "__main__":
    main()
