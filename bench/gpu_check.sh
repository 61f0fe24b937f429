#!/usr/bin/env bash
# Checks and times what runs on a GPU, on a bare machine with CUDA, CMake, ninja and g++: builds for its GPU, runs the
# tests that run on devices, compute-sanitizer on some of them, the kernels' bench, and QINCo beside PyTorch where
# python3 has it. Goes on after a failure; the last line counts.
#
# usage: bench/gpu_check.sh [--prefix DIR] [--seconds N] [--rehearse] OUT [PHASE...]
#   OUT         folder for report.md, bench.json, peers.json and logs.txt (the ends of all logs)
#   PHASE       build test bench sanitize peers; all of them by default, in 530 seconds. build/gpu keeps what earlier
#               calls built and found, so that a phase can be run alone; `build` begins a new report
#   --prefix    where fmt, doctest, CLI11, nlohmann_json, Eigen, hnswlib and zlib are, if not with the system
#               (bench/gather_prefix.sh makes such a folder from a Debian machine's packages)
#   --seconds   that all phases of this call may take
#   --rehearse  on the emulator, `peers` on the CPU, with little to do: whether this script works, where there is no GPU
set -uo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." || exit 1

usage() {
  sed -n '/^# usage/,/^set /p' "${BASH_SOURCE[0]}" | sed '/^set /d; s/^# //' >&2
  exit 2
}

prefix=''
seconds=530
build=build/gpu
cuda=ON
while [[ ${1:-} == --* ]]; do
  case $1 in
    --prefix) prefix=$(cd "${2:?$1 needs a folder}" && pwd) || exit 1 && shift 2 ;;
    --seconds) seconds=${2:?$1 needs a number} && shift 2 ;;
    --rehearse) cuda=EMULATE && build=build/rehearsal && shift ;;
    *) usage ;;
  esac
done
(($# > 0)) || usage
out=$(mkdir -p "$1" && cd "$1" && pwd) || exit 1
shift
phases=("$@")
((${#phases[@]} > 0)) || phases=(build test bench sanitize peers)
logs=$build/logs
readonly prefix seconds build cuda out logs
deadline=$((SECONDS + seconds))
failed=0

# One line of the report.
note() {
  echo "| $1 | $2 | $3 |" >>"$logs/steps.md"
  printf '%-16s %s %s\n' "$1" "$2" "$3"
}

# Runs the rest of $@ as step $1 for at most $2 seconds, or what is left of the time.
step() {
  local name=$1 limit=$2 left=$((deadline - SECONDS)) start=$SECONDS status=0
  shift 2
  if ((left < 5)); then
    note "$name" "skipped: no time left" ""
    failed=$((failed + 1))
    return 1
  fi
  timeout -k 5 $((limit < left ? limit : left)) "$@" >"$logs/$name.log" 2>&1 || status=$?
  # Tests that find no device pass: here that is a failure.
  if ((status == 0)) && grep -q 'skipped: no CUDA device' "$logs/$name.log"; then status=no-device; fi
  if [[ $status == 0 ]]; then
    note "$name" ok "$((SECONDS - start)) s"
  else
    failed=$((failed + 1))
    note "$name" "FAILED ($status)" "$((SECONDS - start)) s"
    tail -n 12 "$logs/$name.log"
    return 1
  fi
}

# With a prefix, each package is pointed at by itself: its files may lie where only Debian's CMake would look.
cmake_options() {
  options=(-G Ninja -D CMAKE_BUILD_TYPE=Release -D QINCO_CUDA="$cuda" -D QINCO_HDF5=OFF -D QINCO_TESTS=ON)
  [[ $cuda == EMULATE ]] || options+=(-D CMAKE_CUDA_ARCHITECTURES=native)
  ! command -v ccache >/dev/null ||
    options+=(-D CMAKE_CXX_COMPILER_LAUNCHER=ccache -D CMAKE_CUDA_COMPILER_LAUNCHER=ccache)
  [[ -n $prefix ]] || return 0
  options+=(-D CMAKE_PREFIX_PATH="$prefix")
  export CPLUS_INCLUDE_PATH=$prefix/include # hnswlib comes without anything that CMake could find
  local package config library
  for package in fmt doctest CLI11 nlohmann_json Eigen3; do
    config=$(find "$prefix" -name "${package}Config.cmake" -o -name "${package,,}-config.cmake" | head -n 1)
    [[ -z $config ]] || options+=(-D "${package}_DIR=$(dirname "$config")")
  done
  library=$(find "$prefix" -name 'libz.a' | head -n 1)
  [[ -z $library ]] || options+=(-D ZLIB_LIBRARY="$library" -D ZLIB_INCLUDE_DIR="$prefix/include")
}

phase_build() {
  rm -rf "$logs"
  mkdir -p "$logs"
  local options
  cmake_options
  [[ $cuda == EMULATE ]] || step device 30 nvidia-smi
  step configure 90 cmake -S . -B $build "${options[@]}"
  step build 480 cmake --build $build --target test_kernels test_tensor test_autograd test_qinco test_apps bench_gpu \
    bench_qinco_worker
}

# A case of each family on few sizes, for what slows a kernel down a hundredfold, and for rehearsals.
few='*by hand*,softmax family: inf*,scatter_add_rows: keeps*,*takes no vectors*,scan: NaN*,nearest: NaN*,topk: long*'
few+=',gemm: within*,gemm: aligned*,scan: many*,uniform*,row_argmin*,sum and*,adam and sgd: three*,adam: many*'
few+=',linear leaves*,gather_rows*'
few+=',strided_copy: cont*,binary: in*,Device: a copy takes*,device: recorded*,device: memory that*,device: what cannot*'
readonly few

# The cases of program $1 that filter $2 takes, a filter for each. Some fill the device: they run by themselves.
cases() {
  $build/bin/"$1" -ltc -tc="$2" | sed '/^\[doctest\]/d; /^===/d; s/,/?/g'
}
readonly alone='out of memory|more than the device|does not fit|lacks it'

# Runs the cases on standard input of program $1, $2 at a time, each in a process of its own: what breaks a device's
# context fails one case alone. Prints what a case that failed printed, and all times. `under`: a command to run it with.
run_cases() {
  local program=$build/bin/$1
  # shellcheck disable=SC2016  # the inner shell expands them
  xargs -d '\n' -r -P "$2" -I '{}' bash -c '
    start=${EPOCHREALTIME/./} status=0
    said=$(timeout -k 5 100 $under "$0" -tc="$1" 2>&1) || status=$?
    echo "$(((${EPOCHREALTIME/./} - start) / 1000)) ms: $1"
    ! grep -q "terminated before first instrumented API call" <<<"$said" || status=0  # a case for the CPU alone
    if ((status != 0)) || ! grep -q "skipped: no CUDA device\|1 passed" <<<"$said"; then
      printf "FAILED (%s): %s\n%s\n" $status "$1" "$(tail -n 60 <<<"$said")" && exit 1
    fi
    ! grep "skipped: no CUDA device" <<<"$said"' "$program" '{}'
}

test_program() {
  local status=0 jobs=1 all
  [[ $cuda != ON ]] || jobs=$(nproc)
  all=$(cases "$1" "$2")
  [[ -n $all ]] || { echo "$1: has no cases" && return 1; }
  { grep -v -E "$alone" || true; } <<<"$all" | run_cases "$1" "$jobs" || status=1
  { grep -E "$alone" || true; } <<<"$all" | run_cases "$1" 1 || status=1
  return $status
}

under=''
export -f cases run_cases test_program
export build cuda alone under OMP_WAIT_POLICY=passive  # many at a time: threads that wait must sleep, not spin

phase_test() {
  local of all='*' devices='*device:*'
  [[ $cuda == ON ]] || all=$few devices='device: tensors*,device: dropout*,device: the codec follows*,device: encode*'
  step test_kernels 240 bash -c 'test_program "$@"' - test_kernels "$all"
  for of in tensor autograd qinco apps; do
    step "test_$of" 150 bash -c 'test_program "$@"' - "test_$of" "$devices"
  done
}

phase_sanitize() {
  local tool sanitizer all="$few,cuda candidate: every*,cuda candidate: a step*"
  if ! sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null); then
    note sanitizers "skipped: no compute-sanitizer" ""
    return
  fi
  for tool in memcheck racecheck initcheck synccheck; do
    # initcheck takes for unwritten what cuBLASLt's kernels for Hopper wrote, and what a graph copies (docs/gpu.md).
    local of=$all
    if [[ $tool == initcheck ]]; then
      of=${of/device: recorded\*/device: recorded kernels*}
    else
      of+=',cuda candidate: wide*,cuda candidate: a wide step that*'
    fi
    step $tool 120 env QINCO_CUDA_CACHE=0 under="$sanitizer --tool $tool --error-exitcode 9" bash -c 'test_program "$@"' \
      - test_kernels "$of"
  done
}

phase_bench() {
  local options=()
  [[ $cuda == ON ]] || options=(--quick)
  step bench 200 bash -c "$build/bin/bench_gpu ${options[*]} --json '$out/bench.json' >'$logs/bench.md'"
}

phase_peers() {
  local options=(--rounds 3 --seconds 0.4)
  if ! python3 -c 'import numpy' 2>/dev/null; then
    note peers "skipped: no python3 with numpy" ""
    return
  fi
  [[ $cuda == ON ]] || options=(--device cpu --modes fp32 --rows 1024 --pilot 1024 --rounds 1 --seconds 0)
  step peers 420 env PYTHONUNBUFFERED=1 python3 bench/peers/gpu.py --bin $build/bin --work "$logs/peers" "${options[@]}"
  cp "$logs/peers/peers.json" "$out/" 2>/dev/null
}

report() {
  echo "# GPU check, $(date -u +%F)"
  [[ $cuda == ON ]] || printf '\nA rehearsal on the emulator: no time here means anything.\n'
  printf '\n| step | result | time |\n|---|---|---|\n'
  cat "$logs/steps.md"
  local part
  for part in "$logs/bench.md" "$logs/peers/peers.md"; do
    if [[ -s $part ]]; then
      echo
      cat "$part"
    fi
  done
}

mkdir -p "$logs"
for phase in "${phases[@]}"; do
  declare -F "phase_$phase" >/dev/null || usage
done
for phase in "${phases[@]}"; do "phase_$phase"; done
report >"$out/report.md"
tail -n 150 "$logs"/*.log >"$out/logs.txt" 2>/dev/null
echo "$failed steps failed; $out/report.md"
((failed == 0))
