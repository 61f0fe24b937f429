#!/usr/bin/env bash
# The demo: RQ, QINCo (also encoded by beam search, as RQ is) and QINCo-LR on data/sift-sample at 8 bytes per vector; a
# table and report.html.
# Needs build/bin (./run demo builds it). --quick: minutes become seconds, for a check that everything works.
# Results of an earlier or interrupted run are replaced.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

# On a machine with other work, threads that sleep while they wait beat threads that spin; on a quiet one it is the same.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

readonly bin=build/bin data=data/sift-sample
out=build/demo
page=report.html
sizes=(--M 8 --K 256)
baseline=(--rq_beam_size 5)
beam=(--beam_size 8 --candidates 8)
training=(--nt 48000 --nval 2000 --L 1 --h 64 --batch_size 128 --lr 1e-3 --lr_schedule cosine --max_epochs 20)
while (($# > 0)); do
  case $1 in
    --quick)
      out=build/demo-quick
      page=$out/report.html
      baseline=(--rq_beam_size 1 --nt 3000)
      training=(--nt 3000 --nval 500 --max_epochs 1 --L 1 --h 16)
      ;;
    *)
      printf "demo: unknown option '%s'\n" "$1" >&2
      exit 2
      ;;
  esac
  shift
done
rm -rf "$out"
mkdir -p "$out"

say() { printf '\n== %s\n' "$*"; }

evaluate=(--base "$data/base.bvecs" --queries "$data/query.bvecs" --groundtruth "$data/groundtruth.ivecs")

say "RQ, ${sizes[*]} ${baseline[*]}"
"$bin/qinco" baseline --method rq "${sizes[@]}" "${baseline[@]}" --training_data "$data/learn.bvecs" \
  "${evaluate[@]}" --json "$out/rq.eval.json"

# Trains and evaluates method $1 with the further options $2...
train() {
  local method=$1
  shift
  say "$method: training"
  "$bin/qinco" train --training_data "$data/learn.bvecs" --model "$out/$method.safetensors" "${sizes[@]}" \
    "${training[@]}" "$@" --json "$out/$method.train.json"
  say "$method: coding and searching"
  "$bin/qinco" eval --model "$out/$method.safetensors" "${evaluate[@]}" --multirate \
    --json "$out/$method.eval.json"
}

train qinco --save_rq_codebooks "$out/rq.safetensors"
say "qinco, encoded with ${beam[*]}"
"$bin/qinco" eval --model "$out/qinco.safetensors" "${evaluate[@]}" "${beam[@]}" --json "$out/qinco-beam.eval.json"
train qinco-lr --lowrank --rq_codebooks "$out/rq.safetensors"

say "$page"
"$bin/qinco_report" --out "$page" --command "./run demo" \
  --title "QINCo beside a residual quantizer, 8 bytes per vector" \
  --note "SIFT descriptors, d = 128: 50,000 to learn from, 20,000 coded, 1,000 queries. Trained with ${training[*]}. \
Encoded with a beam of 8: ${beam[*]}." \
  RQ:"$out/rq" QINCo:"$out/qinco" "QINCo, beam of 8":"$out/qinco-beam" QINCo-LR:"$out/qinco-lr"
