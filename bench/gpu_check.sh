#!/usr/bin/env bash
# Checks the CUDA kernels on a machine with a GPU in at most nine minutes: builds for its GPU, runs the tests of the
# kernels, then compute-sanitizer on some of them, then the bench. Goes on after a failure; the last line counts.
# usage: bench/gpu_check.sh OUT [PREFIX]   OUT: folder for logs, bench.json and report.md; PREFIX: where fmt, doctest,
#                                           CLI11, nlohmann_json, Eigen and hnswlib are, if not with the system
set -uo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." || exit 1
out=$(mkdir -p "${1:?usage: bench/gpu_check.sh OUT [PREFIX]}" && cd "$1" && pwd)
prefix=${2:-}
build=build/gpu
deadline=$((SECONDS + 530))
failed=0

# Runs the rest of $@ as step $1 for at most $2 seconds, or what is left of the nine minutes.
step() {
  local name=$1 limit=$2 left=$((deadline - SECONDS)) start=$SECONDS status=0
  shift 2
  if ((left < 5)); then
    echo "| $name | skipped: no time left | |" >>"$out/steps.md"
    failed=$((failed + 1))
    return
  fi
  timeout -k 5 $((limit < left ? limit : left)) "$@" >"$out/$name.log" 2>&1 || status=$?
  ((status == 0)) || failed=$((failed + 1))
  echo "| $name | $( ((status == 0)) && echo ok || echo "FAILED ($status)") | $((SECONDS - start)) s |" >>"$out/steps.md"
  tail -n 2 "$out/steps.md" | tail -n 1
}

options=(-G Ninja -D CMAKE_BUILD_TYPE=Release -D QINCO_CUDA=ON -D CMAKE_CUDA_ARCHITECTURES=native -D QINCO_HDF5=OFF)
[[ -z $prefix ]] || options+=(-D CMAKE_PREFIX_PATH="$prefix")

# What a sanitizer runs, which slows a kernel down a hundredfold: a case of each family, on few sizes.
few='*by hand*,softmax family: inf*,scatter_add_rows: keeps*,*takes no vectors*,scan: NaN*,nearest: NaN*,topk: long*'
few+=',gemm: within*,row_argmin*,sum and*,adam and sgd: three*,linear leaves*,gather_rows*,strided_copy: cont*,binary: in*'
readonly few

printf '| step | result | time |\n|---|---|---|\n' >"$out/steps.md"
step configure 60 cmake -S . -B $build "${options[@]}"
step build 300 cmake --build $build --target test_kernels bench_gpu
step device 20 nvidia-smi
step test_kernels 180 $build/bin/test_kernels
if sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null); then
  for tool in memcheck racecheck initcheck synccheck; do
    step $tool 60 "$sanitizer" --tool $tool --error-exitcode 9 $build/bin/test_kernels -tc="$few"
  done
else
  echo "| sanitizers | skipped: no compute-sanitizer | |" >>"$out/steps.md"
fi
step bench 120 bash -c "$build/bin/bench_gpu --json '$out/bench.json' >'$out/bench.md'"
{
  echo "# GPU check"
  echo
  cat "$out/steps.md"
  echo
  cat "$out/bench.md" 2>/dev/null
} >"$out/report.md"
echo "$failed steps failed; $out/report.md"
((failed == 0))
