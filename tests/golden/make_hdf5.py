"""ann.hdf5, laid out as the files of ann-benchmarks, with two datasets that are not supported, and elsewhere.hdf5, whose
datasets lie in ann.hdf5: what tests/qinco/hdf5_test.cpp reads.

  python3 tests/golden/make_hdf5.py      (needs h5py and numpy)
"""

import os

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))

with h5py.File(os.path.join(HERE, "ann.hdf5"), "w") as file:
    file["train"] = np.arange(80, dtype=np.float32).reshape(20, 4) / 8
    file["test"] = np.arange(12, dtype=np.float32).reshape(3, 4) / 4
    file["neighbors"] = np.arange(15, dtype=np.int32).reshape(3, 5)
    file["distances"] = np.linspace(0, 1, 15).reshape(3, 5)
    file["bytes"] = np.arange(8, dtype=np.uint8).reshape(2, 4)
    file["flat"] = np.arange(8, dtype=np.float32)
    file["big_endian"] = np.arange(8, dtype=">f4").reshape(2, 4)
    file.create_dataset("packed", data=np.zeros((20, 4), dtype=np.float32), chunks=(5, 4), compression="gzip")

with h5py.File(os.path.join(HERE, "elsewhere.hdf5"), "w") as file:
    file["linked"] = h5py.ExternalLink("ann.hdf5", "train")
    file["folder"] = h5py.ExternalLink("ann.hdf5", "/")  # folder/train
    file["soft"] = h5py.SoftLink("/folder/train")
    file.create_dataset("stored", shape=(20, 4), dtype=np.float32, external=[("ann.hdf5", 0, 320)])
    layout = h5py.VirtualLayout(shape=(20, 4), dtype=np.float32)
    layout[...] = h5py.VirtualSource("ann.hdf5", "train", shape=(20, 4))
    file.create_virtual_dataset("virtual", layout)
    file["own"] = np.arange(4, dtype=np.float32).reshape(2, 2)
    file["alias"] = h5py.SoftLink("/own")
