"""Codes packed by Faiss: what tests/qinco/codes_test.cpp compares against.

  python3 tests/golden/make_faiss_codes.py      (needs faiss-cpu, torch and numpy)

Writes faiss_codes.safetensors: for every number of bits b = 1..16, codes_b [9,7] and packed_b = pack_bitstrings(codes_b).
"""

import os

import faiss
import numpy as np

from model_qinco_golden import HERE, write_safetensors

generator = np.random.default_rng(1)
tensors = {}
for bits in range(1, 17):
    codes = generator.integers(0, 1 << bits, size=(9, 7), dtype=np.int32)
    codes[0], codes[1] = 0, (1 << bits) - 1
    tensors[f"codes_{bits}"] = codes
    tensors[f"packed_{bits}"] = faiss.pack_bitstrings(codes, bits)
write_safetensors(os.path.join(HERE, "faiss_codes.safetensors"), dict(sorted(tensors.items())),
                  {"faiss": faiss.__version__})
