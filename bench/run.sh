#!/usr/bin/env bash
# Runs every benchmark of build folder $1/bin: kernels against this machine's peak, then QINCo against its peers.
# Results land in the folder above as well. PEER_PYTHON: a Python with torch and numpy (and faiss).
set -euo pipefail
bin=$1
results=$(dirname "$bin")/results
here=$(dirname "${BASH_SOURCE[0]}")
mkdir -p "$results"

say() { printf '\n== %s\n' "$*"; }

has_torch() { "$1" -c 'import torch, numpy' 2>/dev/null; }

# Sets `python` to one that has the peers, making a virtual environment if need be; fails where there is no way to.
find_peers() {
  local venv=build/peers-venv candidate
  for candidate in ${PEER_PYTHON:+"$PEER_PYTHON"} "$venv/bin/python" python3; do
    if command -v "$candidate" >/dev/null && has_torch "$candidate"; then
      python=$candidate
      return
    fi
    [[ $candidate != "${PEER_PYTHON:-}" ]] || echo "PEER_PYTHON=$PEER_PYTHON has no torch and numpy"
  done
  echo "making $venv with PyTorch, Faiss and NumPy from PyPI (3 GB with what they depend on)"
  python=$venv/bin/python
  python3 -m venv "$venv" && "$python" -m pip install --quiet --retries 1 torch numpy && has_torch "$python" || return
  "$python" -m pip install --quiet --retries 1 faiss-cpu || echo "no faiss-cpu wheel here: PyTorch is the only peer"
}

say "kernels"
"$bin/bench_kernels" --benchmark_out="$results/kernels.json" --benchmark_out_format=json

for program in "$bin"/bench_*; do
  case ${program##*/} in
    bench_kernels | bench_qinco_worker) continue ;;
  esac
  say "${program##*/}"
  "$program"
done

say "peers"
if find_peers; then
  "$python" "$here/peers/compare.py" --bin "$bin" --work "$results"
  say "peers, by beam search"
  "$python" "$here/peers/compare.py" --bin "$bin" --work "$results/beam" --beam_size 4 --candidates 4 \
    --tasks encode train
else
  echo "skipped: no Python with torch and numpy, and none can be made here (PyPI out of reach, or no python3-venv)"
fi
