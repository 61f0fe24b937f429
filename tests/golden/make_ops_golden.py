"""Golden arrays of the differentiable operations, optimisers and schedules, made with PyTorch.

Run from anywhere:  python3 tests/golden/make_ops_golden.py      (needs torch and numpy; seconds)

Writes ops.safetensors beside itself, which tests/autograd/golden_test.cpp compares against:
  ops/LABEL/inI, out, seed, gradI   inputs, output, gradient of the output, gradients of the inputs of each case of
                                    tests/autograd/op_cases.cpp (same labels, same shapes)
  optim/NAME/start, gradients, trajectory   a parameter [5,7], gradients [10,5,7], the parameter after each step
  schedule/NAME/values, rates       losses given to a schedule (or none), and the learning rate after each
"""

import json
import os
import struct

import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
GENERATOR = np.random.default_rng(20240715)
STEPS = 10


def write_safetensors(path, arrays):
    """The same format as tensor/safetensors.h, written here so that this script needs no package for it."""
    names = {np.dtype("float32"): "F32", np.dtype("float64"): "F64"}
    header, data, at = {}, b"", 0
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])):
        block = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [at, at + len(block)]}
        data, at = data + block, at + len(block)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def ids(*shape, n):
    """As ids() of op_cases.cpp: 3, 10, 17, ... modulo n."""
    return ((7 * torch.arange(int(np.prod(shape))) + 3) % n).reshape(shape)


def draw(shape, kind):
    u = GENERATOR.random(shape)
    sign = np.where(np.arange(u.size).reshape(shape) % 2 == 0, 1.0, -1.0)
    values = {"plain": 2 * u - 1, "positive": 0.5 + 1.5 * u, "off_zero": sign * (0.2 + 1.3 * u),
              "biased": sign * 3 + 0.5 * u}[kind]
    return np.asarray(values, dtype=np.float32)


# label: (inputs as (shape, kind) or shape, function of torch tensors)
CASES = {
    "neg": ([(3, 17)], lambda x: -x),
    "relu": ([((3, 17), "off_zero")], torch.relu),
    "gelu": ([(5, 33)], F.gelu),
    "tanh": ([(5, 33)], torch.tanh),
    "sigmoid": ([(5, 33)], torch.sigmoid),
    "exp": ([(65,)], torch.exp),
    "log": ([((65,), "positive")], torch.log),
    "sqrt": ([((65,), "positive")], torch.sqrt),
    "square": ([(2, 3, 5)], torch.square),
    "square: transposed": ([(7, 3)], lambda x: torch.square(x.T)),
    "add": ([(4, 9), (4, 9)], torch.add),
    "add: row": ([(4, 9), (9,)], torch.add),
    "add: same twice": ([(4, 9)], lambda x: x + x),
    "sub": ([(4, 9), (4, 9)], torch.sub),
    "sub: column": ([(4, 1), (4, 9)], torch.sub),
    "mul": ([(17,), (17,)], torch.mul),
    "mul: both ways": ([(5, 1), (1, 7)], torch.mul),
    "mul: middle": ([(2, 3, 4), (2, 1, 4)], torch.mul),
    "mul: transposed": ([(4, 3), (3, 4)], lambda a, b: a.T * b),
    "div": ([(3, 5), ((3, 5), "positive")], torch.div),
    "div: scalar": ([(3, 5), ((), "positive")], torch.div),
    "operator+": ([(9,), (9,)], lambda a, b: 2.5 + (a + b) + 1.5),
    "operator-": ([(9,), (9,)], lambda a, b: 2.5 - (-(a - b) - 1.5)),
    "operator*": ([(9,), (9,)], lambda a, b: 2.5 * (a * b) * 1.5),
    "operator/": ([(9,), ((9,), "positive")], lambda a, b: (2.5 / b) * (a / b) / 1.5),
    "matmul": ([(5, 17), (17, 9)], torch.matmul),
    "matmul: a^T": ([(17, 5), (17, 9)], lambda a, b: a.T @ b),
    "matmul: b^T": ([(5, 17), (9, 17)], lambda a, b: a @ b.T),
    "matmul: a^T b^T": ([(17, 5), (9, 17)], lambda a, b: a.T @ b.T),
    "matmul: batched": ([(2, 3, 4), (2, 4, 5)], torch.matmul),
    "matmul: views": ([(4, 3), (5, 4)], lambda a, b: a.T @ b.T),
    "linear": ([(3, 8), (5, 8), (5,)], F.linear),
    "linear: no bias": ([(33, 7), (3, 7)], F.linear),
    "linear: 3-d": ([(2, 3, 4), (5, 4), (5,)], F.linear),
    "linear_relu": ([(3, 2), (17, 2), ((17,), "biased")], lambda x, w, b: torch.relu(F.linear(x, w, b))),
    "linear_residual": ([(3, 8), (5, 8), (3, 5), (5,)], lambda x, w, r, b: F.linear(x, w, b) + r),
    "softmax": ([(4, 17)], lambda x: F.softmax(x, -1)),
    "log_softmax": ([(2, 3, 5)], lambda x: F.log_softmax(x, -1)),
    "nll_loss": ([(6, 5)], lambda x: F.nll_loss(x, ids(6, n=5))),
    "cross_entropy": ([(9, 10)], lambda x: F.cross_entropy(x, ids(9, n=10))),
    "mse_loss": ([(4, 9), (4, 9)], F.mse_loss),
    "sum_squared_error": ([(4, 9), (4, 9)], lambda a, b: torch.sum((a - b) ** 2)),
    "sum": ([(3, 11)], lambda x: torch.sum(x * x)),
    "sum: first": ([(3, 11)], lambda x: torch.sum(x * x, 0)),
    "sum: middle": ([(2, 3, 4)], lambda x: torch.sum(x * x, 1)),
    "sum: last kept": ([(3, 11)], lambda x: torch.sum(x * x, -1, keepdim=True)),
    "mean": ([(3, 11)], lambda x: torch.mean(x * x)),
    "mean: first": ([(3, 11)], lambda x: torch.mean(x * x, 0)),
    "mean: last kept": ([(3, 11)], lambda x: torch.mean(x * x, 1, keepdim=True)),
    "concat": ([(3, 2), (3, 5)], lambda a, b: torch.cat([a, b], 1) ** 2),
    "concat: first": ([(2, 3), (4, 3)], lambda a, b: torch.cat([a, b], 0) ** 2),
    "slice": ([(5, 6)], lambda x: x[:, 2:5] ** 2),
    "slice: overlapping": ([(6, 3)], lambda x: x[0:4] * x[2:6]),
    "reshape": ([(4, 6)], lambda x: x.reshape(3, -1) ** 2),
    "reshape: of a view": ([(4, 6)], lambda x: x.T.reshape(8, 3) ** 2),
    "transpose": ([(2, 3, 4)], lambda x: x.transpose(0, 2) ** 2),
    "embedding": ([(5, 7)], lambda w: F.embedding(ids(11, n=5), w) ** 2),
    "embedding: 2-d ids": ([(5, 7)], lambda w: F.embedding(ids(2, 3, n=5), w) ** 2),
    "layer_norm": ([(4, 19), ((19,), "positive"), (19,)], lambda x, g, b: F.layer_norm(x, (19,), g, b)),
    "cross_entropy: smoothed": ([(9, 10)], lambda x: F.cross_entropy(x, ids(9, n=10), label_smoothing=0.1)),
}

# The same, of later: drawn last, so that what was drawn before them stays as it is.
LATER_CASES = {
    "abs": ([((3, 17), "off_zero")], torch.abs),
    "silu": ([(5, 33)], F.silu),
    "maximum": ([(4, 9), ((4, 9), "biased")], torch.maximum),
    "maximum: column": ([(4, 1), ((4, 9), "biased")], torch.maximum),
    "minimum": ([(4, 9), ((4, 9), "biased")], torch.minimum),
    "minimum: numbers": ([((9,), "biased")], lambda x: torch.minimum(
        torch.tensor(2.0), torch.maximum(torch.cat([x, 0.25 * x]), torch.tensor(-1.5)))),
    "clamp": ([((9,), "biased")], lambda x: torch.clamp(torch.cat([x, 0.25 * x]), -1.5, 2)),
    "stack": ([(3, 4), (3, 4)], lambda a, b: torch.stack([a, b], 1) ** 2),
    "stack: last, three times": ([(2, 3), (2, 3)], lambda a, b: torch.stack([a, b, a], -1) ** 2),
}

OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd nesterov decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.02),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adam decay": lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
}


def ops(arrays, cases):
    for label, (inputs, function) in cases.items():
        variables = []
        for spec in inputs:
            shape, kind = spec if len(spec) == 2 and isinstance(spec[1], str) else (spec, "plain")
            variables.append(torch.tensor(draw(shape, kind), requires_grad=True))
        out = function(*variables)
        seed = torch.tensor(draw(tuple(out.shape), "positive"))
        out.backward(seed)
        for i, variable in enumerate(variables):
            arrays[f"ops/{label}/in{i}"] = variable.detach().numpy()
            arrays[f"ops/{label}/grad{i}"] = variable.grad.numpy()
        arrays[f"ops/{label}/out"] = out.detach().numpy()
        arrays[f"ops/{label}/seed"] = seed.numpy()


def optimisers(arrays):
    for name, make in OPTIMISERS.items():
        start, gradients = draw((5, 7), "plain"), draw((STEPS, 5, 7), "plain")
        parameter = torch.nn.Parameter(torch.tensor(start))
        optimiser = make([parameter])
        trajectory = []
        for gradient in gradients:
            parameter.grad = torch.tensor(gradient)
            optimiser.step()
            trajectory.append(parameter.detach().numpy().copy())
        arrays[f"optim/{name}/start"] = start
        arrays[f"optim/{name}/gradients"] = gradients
        arrays[f"optim/{name}/trajectory"] = np.stack(trajectory)


def schedules(arrays):
    parameter = torch.nn.Parameter(torch.zeros(1))
    losses = np.maximum(1.0, 10 * 0.8 ** np.arange(60)) + 0.02 * GENERATOR.random(60)
    optimiser = torch.optim.SGD([parameter], lr=0.5)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.3, patience=3, threshold=0.01, cooldown=2,
                                                         min_lr=1e-3)
    rates = []
    for loss in losses:
        plateau.step(loss)
        rates.append(optimiser.param_groups[0]["lr"])
    arrays["schedule/plateau/values"] = losses
    arrays["schedule/plateau/rates"] = np.array(rates)

    optimiser = torch.optim.SGD([parameter], lr=0.5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20, eta_min=0.01)
    rates = []
    for _ in range(20):
        optimiser.step()
        cosine.step()
        rates.append(optimiser.param_groups[0]["lr"])
    arrays["schedule/cosine/rates"] = np.array(rates)


def main():
    arrays = {}
    ops(arrays, CASES)
    optimisers(arrays)
    schedules(arrays)
    ops(arrays, LATER_CASES)
    write_safetensors(os.path.join(HERE, "ops.safetensors"), arrays)
    print(f"{len(CASES) + len(LATER_CASES)} cases, {len(OPTIMISERS)} optimisers, torch {torch.__version__}")


if __name__ == "__main__":
    main()
