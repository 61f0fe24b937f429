#!/usr/bin/env bash
# The experiments of docs/search.md: every quantizer at 8 and 16 bytes, two-stage search and IVF-QINCo, on a folder with
# learn.bvecs, base.bvecs, query.bvecs and groundtruth.ivecs.
#
#   bench/sift_photos.sh BIN DATA WORK [THREADS [NAMES]]
#
# NAMES: the experiments to make, as an extended regular expression of whole names; default all. Hours on two cores.
# Whatever WORK holds already is not made again, so a stopped run goes on. The tables are printed by bench/tables.py
# WORK, those beside Faiss by bench/peers/search.py and tests/golden/quantizers_faiss.py --full.
set -euo pipefail
bin=$1
data=$2
work=$3
threads=${4:-$(nproc)}
names=${5:-.*}
export OMP_WAIT_POLICY=passive
mkdir -p "$work"

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
qinco() { "$bin/qinco" "$@" --threads "$threads"; }
files=(--base "$data/base.bvecs" --queries "$data/query.bvecs" --groundtruth "$data/groundtruth.ivecs")

# Whether experiment $1 is wanted and its result $2 not there yet.
wanted() { [[ $1 =~ ^($names)$ && ! -e $work/$2 ]]; }

# baseline NAME OPTION...
baseline() {
  wanted "$1" "$1.eval.json" || return 0
  say "$1"
  qinco baseline --training_data "$data/learn.bvecs" --nt 100000 "${files[@]}" --json "$work/$1.eval.json" "${@:2}" \
    >"$work/$1.log"
}

# train NAME OPTION...
train() {
  wanted "$1" "$1.train.json" || return 0
  say "training $1"
  qinco train --training_data "$data/learn.bvecs" --nt 490000 --nval 10000 --batch_size 256 \
    --lr_schedule cosine --model "$work/$1.safetensors" --json "$work/$1.train.json" "${@:2}" >"$work/$1.log"
}

# evaluate NAME OPTION...
evaluate() {
  wanted "$1" "$1.eval.json" || return 0
  say "evaluating $1"
  qinco eval --model "$work/$1.safetensors" "${files[@]}" --json "$work/$1.eval.json" "${@:2}" \
    >"$work/$1.eval.log"
}

# two_stage NAME OPTION...: recall against nshort
two_stage() {
  wanted "$1" "$1.search.json" || return 0
  say "two-stage search $1"
  qinco search --model "$work/$1.safetensors" --training_data "$data/learn.bvecs" --nt 100000 "${files[@]}" \
    --nshort 5,10,20,50,100,200,500,1000 --json "$work/$1.search.json" "${@:2}" >"$work/$1.search.log"
}

# index NAME OPTION...: the base in inverted lists, encoded as the options say
index() {
  wanted "$1" "$1.index" || return 0
  say "index $1"
  rm -f "$work/$1.new" # of a run that was stopped
  qinco index build --model "$work/$1.safetensors" --training_data "$data/learn.bvecs" --nt 100000 \
    --o "$work/$1.new" "${@:2}" >"$work/$1.index.log"
  qinco index add --index "$work/$1.new" --model "$work/$1.safetensors" --i "$data/base.bvecs" "${@:2}" \
    >>"$work/$1.index.log"
  qinco index merge --i "$work/$1.new" --o "$work/$1.index" >>"$work/$1.index.log"
  rm "$work/$1.new"
}

for M in 8 16; do
  for method in pq opq rq; do baseline "$method$M-classic" --method "$method" --M "$M"; done
done
train q8 --M 8 --L 2 --h 256 --max_epochs 12
train beam8 --M 8 --L 2 --h 256 --max_epochs 12 --beam_size 4 --candidates 4
# Small networks, all of one size, those of a rate trained for as long as each other: what the forms of QINCo differ in.
small=(--L 1 --h 64)
train small8 --M 8 "${small[@]}" --max_epochs 3
train lr8 --M 8 --lowrank "${small[@]}" --max_epochs 3
train pq8 --M 4 --nsub 2 "${small[@]}" --max_epochs 3
train opq8 --M 4 --nsub 2 --opq "${small[@]}" --max_epochs 3
train small16 --M 16 "${small[@]}" --max_epochs 1
train lr16 --M 16 --lowrank "${small[@]}" --max_epochs 1
train pq16 --M 8 --nsub 2 "${small[@]}" --max_epochs 1
train opq16 --M 8 --nsub 2 --opq "${small[@]}" --max_epochs 1
for model in q8 small8 lr8 pq8 opq8 small16 lr16 pq16 opq16; do evaluate "$model"; done
evaluate beam8 --beam_size 8 --candidates 16
for model in q8 small8 small16; do two_stage "$model"; done
two_stage beam8 --beam_size 8 --candidates 16 --npairs 0,20,50,200
if [[ ! -e $work/c1024.fvecs ]]; then
  say "centroids"
  qinco kmeans --training_data "$data/learn.bvecs" --k 1024 --o "$work/c1024.fvecs" >"$work/c1024.log"
fi
beam=(--beam_size 4 --candidates 8)
for M in 8 16; do
  train "ivf$M" --ivf --IVF_centroids "$work/c1024.fvecs" --M "$M" --L 1 --h 256 --max_epochs 8 "${beam[@]}"
  index "ivf$M" "${beam[@]}"
done
say "done"
