#!/usr/bin/env bash
# Runs the fuzz targets side by side for $1 seconds (default 60) on what the tests ship as first inputs; a target stops
# at its first finding. New inputs gather in build/fuzz/corpus/.
# After: cmake --preset checked && cmake --build --preset checked --target fuzzers
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.."
export OMP_NUM_THREADS=1 # small inputs: threads would only wait for each other
readonly seconds=${1:-60} corpus=build/fuzz/corpus golden=tests/golden

mkdir -p "$corpus"/{torch_file,safetensors,vectors}
cp "$golden"/torch/*.pt "$corpus/torch_file"
cp "$golden"/faiss_codes.safetensors "$golden"/torch/*.safetensors "$golden"/qinco_step.safetensors "$corpus/safetensors"
# The same models as safetensors: by the program of an ordinary build, if there is one.
if [[ -x build/bin/qinco ]]; then
  for model in qinco qinco_lr ivf_qinco pq_qinco pq_qinco_opq; do
    build/bin/qinco convert --quiet "$golden/torch/$model.pt" "$corpus/safetensors/$model.safetensors"
  done
fi
# One short file of two rows per format; the first byte is the format's number in vectors.cpp.
row='\x02\x00\x00\x00'
printf '%b' '\x00'"$row"'\x00\x00\x80?\x00\x00\x00@'"$row"'\x00\x00\x80?\x00\x00\x00@' >"$corpus/vectors/fvecs"
printf '%b' '\x01'"$row"'ab'"$row"'cd' >"$corpus/vectors/bvecs"
printf '%b' '\x02'"$row"'\x01\x00\x00\x00\x02\x00\x00\x00' >"$corpus/vectors/ivecs"
{
  printf "\x03\x93NUMPY\x01\x00\x46\x00{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), }"
  printf '%11s\nabcd' ''
} >"$corpus/vectors/npy"
printf '%b' '\x04'"$row$row"'\x00\x00\x80?\x00\x00\x00@\x00\x00\x80?\x00\x00\x00@' >"$corpus/vectors/fbin"
printf '%b' '\x05'"$row$row"'abcd' >"$corpus/vectors/u8bin"

declare -A running
for target in torch_file safetensors vectors; do
  "build/checked/bin/fuzz_$target" "$corpus/$target" -max_total_time="$seconds" -max_len=65536 -timeout=10 \
    -malloc_limit_mb=256 -rss_limit_mb=1024 -artifact_prefix="build/fuzz/$target-" >"build/fuzz/$target.log" 2>&1 &
  running[$target]=$!
done
findings=0
for target in "${!running[@]}"; do
  if wait "${running[$target]}"; then
    printf '%-12s %s\n' "$target" "$(grep '^Done ' "build/fuzz/$target.log")"
  else
    tail -n 60 "build/fuzz/$target.log"
    findings=1
  fi
done
((findings == 0))
echo "$seconds s each, no finding"
