"""Small models in PyTorch's files, and what PyTorch makes of them: what tests/qinco/torch_file_test.cpp reads.

  python3 tests/golden/make_torch_files.py          all of tests/golden/torch/, with a recent PyTorch and NumPy
  python3 tests/golden/make_torch_files.py training only the checkpoints of whole trainings
  python3 tests/golden/make_torch_files.py coded    only what PyTorch makes of the IVF and PQ models that are there
  python3 tests/golden/make_torch_files.py old      qinco_old.pt and training_old.pt only, with PyTorch 2.0 and NumPy 1:
                                                    their names and layout differ; takes the parameters from
                                                    state_dict.pt

Every file of a QINCo holds the same parameters. expected_*.safetensors hold them as well, with the codes and decoded
vectors of the first 1,024 rows of data/sift-sample/learn.bvecs, cut to d values.
"""

import argparse
import collections
import os
import pathlib
import random
import sys

import numpy as np
import torch

from model_qinco import IVFQINCo, PQ_QINCo, QINCo, QINCoLR
from model_qinco_golden import read_rows, residual_codebooks, write_safetensors

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "torch")
SIZES = {"d": 8, "K": 16, "L": 2, "M": 3, "h": 12}
DB_SCALE = np.float32(203.5)
ROWS = 1024
MIN_GAP = 3e-5  # smallest (second - best) / best squared distance that is accepted


def path(name):
    return os.path.join(HERE, name)


def save(content, name, **options):
    torch.save(content, path(name), **options)
    print(f"  {name}: {os.path.getsize(path(name))} bytes")


def make(cls, seed, **more):
    torch.manual_seed(seed)
    model = cls(**SIZES, **more)
    for part in getattr(model, "sub_quantizers", [model]):
        part.db_scale = DB_SCALE
        books = residual_codebooks(read_rows(4000, 2000, part.d), len(part.steps) + 1, SIZES["K"])
        for codebook, c in zip([part.codebook0, *(step.codebook for step in part.steps)], books):
            codebook.weight.data[: SIZES["K"]] = c.float() / DB_SCALE
    return model


def make_without_ties(cls, x):
    """The first seed for which no arg-min is a near tie, so that rounding cannot change a code."""
    for seed in range(200):
        model = make(cls, seed)
        codes, gap = model.encode(x)
        if gap > MIN_GAP:
            return model, codes
    raise RuntimeError("every seed met a near tie")


def write_expected(name, model, codes):
    tensors = {f"param.{k}": v for k, v in model.state_dict().items()}
    tensors |= {"codes": codes.to(torch.int32), "decoded": model.decode(codes)}
    write_safetensors(path(name), tensors, {**SIZES, "db_scale": DB_SCALE, "torch": torch.__version__})


def save_as_if_on_gpu(model, name):
    """What torch.save writes when the parameters are on a GPU, on a machine without one."""
    original = torch.serialization.location_tag
    torch.serialization.location_tag = lambda storage: "cuda:0"
    save(model, name)
    torch.serialization.location_tag = original


def views_of_one_storage(state):
    """The parameters as slices of one flat tensor, matrices transposed in it."""
    flat = torch.cat([v.mT.reshape(-1) if v.dim() == 2 else v for v in state.values()])
    views, at = {}, 0
    for k, v in state.items():
        part = flat[at : at + v.numel()]
        views[k] = part.view(*v.mT.shape).mT if v.dim() == 2 else part
        at += v.numel()
    return views


def training_checkpoint(state):
    """All that people put beside a model's parameters: optimiser, scheduler, as dicts and whole, options, histories,
    random states."""
    model = QINCo(**SIZES)
    model.load_state_dict(state)
    optimizer = torch.optim.Adam(model.codebook0.parameters(), lr=1e-3)
    model.codebook0.weight.square().sum().backward()
    optimizer.step()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)
    plateau.step(0.5)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])
    history = collections.defaultdict(list, val=[0.5, np.float64(0.25)])
    args = argparse.Namespace(lr=1e-3, seed=2**80, output=pathlib.Path("models") / "qinco.pt", M=3, ivf=None)
    return {
        "epoch": 7,
        "state_dict": state,
        "scheduler": plateau,
        "schedulers": [plateau.state_dict(), steps.state_dict(), steps],
        "optimizer": optimizer.state_dict(),
        "args": args,
        "history": history,
        "recent": collections.deque([1, 2, 3], maxlen=5),
        "used": collections.Counter("codebook"),
        "losses": np.arange(6, dtype=np.float32).reshape(2, 3),
        "names": np.array(["a", None], dtype=object),
        "random": [random.getstate(), np.random.get_state(), torch.get_rng_state()],
        "db_scale": np.array([DB_SCALE]),
    }


def training_files(state):
    save(training_checkpoint(state), "training.pt")
    save({"state_dict": state, "db_scale": np.array([DB_SCALE])}, "training_protocol5.pt", pickle_protocol=5)


def all_files():
    x = read_rows(0, ROWS, SIZES["d"])
    model, codes = make_without_ties(QINCo, x)
    write_expected("expected_qinco.safetensors", model, codes)
    state = model.state_dict()
    save(model, "qinco.pt")
    save(model, "qinco_protocol4.pt", pickle_protocol=4)
    save(torch.nn.DataParallel(model), "qinco_wrapped.pt")
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    save(torch.nn.parallel.DistributedDataParallel(model), "qinco_distributed.pt")
    torch.distributed.destroy_process_group()
    save_as_if_on_gpu(model, "qinco_gpu.pt")
    save(state, "state_dict.pt")
    save(views_of_one_storage(state), "state_dict_views.pt")
    save({f"module.{k}": v for k, v in state.items()}, "state_dict_wrapped.pt")
    scheduler = {"best": 1.25, "last_epoch": 7, "lrs": [1e-3, 1e-4], "bad_epochs": collections.OrderedDict(n=2)}
    save({"epoch": 7, "scheduler": scheduler, "state_dict": state}, "checkpoint.pt")
    training_files(state)
    save({k: v.double() for k, v in state.items()}, "state_dict_f64.pt")
    save({k: v.half() for k, v in state.items()}, "state_dict_f16.pt")
    save({k: v.bfloat16() for k, v in state.items()}, "state_dict_bf16.pt")
    save(state, "legacy.pt", _use_new_zipfile_serialization=False)

    lowrank, lowrank_codes = make_without_ties(QINCoLR, x)
    write_expected("expected_qinco_lr.safetensors", lowrank, lowrank_codes)
    lowrank.db_scale = float(DB_SCALE)
    save(lowrank, "qinco_lr.pt")

    save(make(IVFQINCo, 1, K_IVF=32), "ivf_qinco.pt")
    SIZES["M"] = 4
    save(make(PQ_QINCo, 2, nsub=2), "pq_qinco.pt")
    rotation = torch.linalg.qr(torch.randn(SIZES["d"], SIZES["d"]))[0]
    save(make(PQ_QINCo, 3, nsub=2, opq_matrix=rotation), "pq_qinco_opq.pt")
    sizes = {"M": 4, "K": 16, "L": 2, "de": 12, "dh": 12, "A": 4, "B": 8}
    save({"parameters": sizes, "data_dim": 8, "model": {"codebook": torch.zeros(16, 8)}}, "qinco2.pt")


def coded_files():
    x = read_rows(0, ROWS, SIZES["d"])
    for name in ["ivf_qinco", "pq_qinco", "pq_qinco_opq"]:
        model = torch.load(path(f"{name}.pt"), weights_only=False)
        codes, gap = model.encode(x)
        tensors = {"codes": codes.to(torch.int32), "decoded": model.decode(codes)}
        write_safetensors(path(f"expected_{name}.safetensors"), tensors, {"torch": torch.__version__})
        print(f"  expected_{name}.safetensors: smallest gap {gap:.1e}")


def old_file():
    model = QINCo(**SIZES)
    state = torch.load(path("state_dict.pt"))
    model.load_state_dict(state)
    model.db_scale = DB_SCALE
    save(model, "qinco_old.pt")
    save(training_checkpoint(state), "training_old.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, numpy {np.__version__}")
    if sys.argv[1:] == ["old"]:
        old_file()
    elif sys.argv[1:] == ["training"]:
        training_files(torch.load(path("state_dict.pt")))
    elif sys.argv[1:] == ["coded"]:
        coded_files()
    else:
        all_files()
        coded_files()
