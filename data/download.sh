#!/usr/bin/env bash
# Downloads the public vector sets of the QINCo paper; `data/download.sh --help` says how.
set -euo pipefail
shopt -s inherit_errexit

readonly fair=https://dl.fbaipublicfiles.com/QINCo/datasets
readonly texmex=ftp://ftp.irisa.fr/local/texmex/corpus
readonly yandex=https://storage.yandexcloud.net/yandex-research/ann-datasets/DEEP

# set, file, rows (0: as many as the header says), d (0: any), place
files() {
  cat <<EOF
bigann bigann_learn_10M10k.bvecs 10010000 128 $fair/bigann/bigann_learn_10M10k.bvecs
bigann bigann1M.bvecs 1000000 128 $fair/bigann/bigann1M.bvecs
bigann idx_1M.ivecs 10000 0 $fair/bigann/gnd/idx_1M.ivecs
bigann bigann_query.bvecs 10000 128 $texmex/bigann_query.bvecs.gz
deep learn10M10k.fvecs 10010000 96 $fair/deep1b/learn10M10k.fvecs
deep base1M.fvecs 1000000 96 $fair/deep1b/base1M.fvecs
deep deep1M_groundtruth.ivecs 10000 0 $fair/deep1b/deep1M_groundtruth.ivecs
deep deep1B_groundtruth.ivecs 10000 0 $fair/deep1b/deep1B_groundtruth.ivecs
deep query.public.10K.npy 10000 96 $yandex/query.public.10K.fbin
contriever training_set.npy 0 768 $fair/ContrieverEmb/training_set.npy
contriever database1M.npy 1000000 768 $fair/ContrieverEmb/database1M.npy
contriever queries.npy 10000 768 $fair/ContrieverEmb/queries.npy
contriever ground_truth1M.npy 10000 0 $fair/ContrieverEmb/ground_truth1M.npy
fb-ssnpp training_set10010k.npy 10010000 256 $fair/FB_ssnpp/training_set10010k.npy
fb-ssnpp database1M.npy 1000000 256 $fair/FB_ssnpp/database1M.npy
fb-ssnpp queries.npy 10000 256 $fair/FB_ssnpp/queries.npy
fb-ssnpp ground_truth1M.npy 10000 0 $fair/FB_ssnpp/ground_truth1M.npy
EOF
}

usage() {
  cat <<EOF
usage: data/download.sh [--dir D] [--mirror URL] bigann|deep|contriever|fb-ssnpp...
       data/download.sh --list

Downloads each set into D/SET (D: the folder of this script), 1.5 to 33 GB each. Run it again after an interruption: it
goes on where it stopped. Every file is checked for its dimension and number of rows before it gets its final name.

  --dir D       where to put the sets
  --mirror URL  fetch from URL/SET/FILE, FILE as --list names it in the last column, instead of the public places
  --list        print set, file, rows, dimension (0: any) and place
EOF
}

die() {
  printf 'download.sh: %s\n' "$*" >&2
  exit 1
}

# The int32 at byte $2 of file $1.
int_at() { od -A n -t d4 -j "$2" -N 4 "$1" | tr -d ' \n'; }

# Prints "rows d" of vector file $1 (format named by $2), or says what is wrong with it and fails.
shape_of() {
  local path=$1 format=$2 size d record n
  size=$(stat -c %s "$path")
  if ((size < 8)); then
    echo "$size bytes, too short for a .$format"
    return 1
  fi
  case $format in
    bvecs | fvecs | ivecs)
      d=$(int_at "$path" 0)
      if [[ $format == bvecs ]]; then record=$((4 + d)); else record=$((4 + 4 * d)); fi
      if ((d < 1 || size % record != 0)); then
        echo "$size bytes are no whole number of rows of dimension $d"
        return 1
      fi
      if (($(int_at "$path" $((size - record))) != d)); then
        echo "the last row's dimension is not $d as the first's"
        return 1
      fi
      echo "$((size / record)) $d"
      ;;
    fbin)
      n=$(int_at "$path" 0)
      d=$(int_at "$path" 4)
      if ((n < 1 || d < 1 || size != 8 + 4 * n * d)); then
        echo "$size bytes found, $((8 + 4 * n * d)) expected for $n x $d"
        return 1
      fi
      echo "$n $d"
      ;;
    npy) shape_of_npy "$path" "$size" ;;
  esac
}

shape_of_npy() {
  local path=$1 size=$2 length start header bytes
  if [[ $(head -c 6 "$path" | od -A n -t x1 | tr -d ' \n') != 934e554d5059 ]]; then
    echo "no .npy: the magic bytes are missing"
    return 1
  fi
  start=10
  length=$(od -A n -t u2 -j 8 -N 2 "$path" | tr -d ' \n')
  if (($(od -A n -t u1 -j 6 -N 1 "$path") > 1)); then
    start=12
    length=$(int_at "$path" 8)
  fi
  header=$(tail -c +$((start + 1)) "$path" | head -c "$length" | tr -d '\0\n') || true
  if [[ ! $header =~ \'descr\':\ *\'[\<\|=]?[a-z]([0-9]+)\' ]]; then
    echo "no element type in the .npy header"
    return 1
  fi
  bytes=${BASH_REMATCH[1]}
  if [[ ! $header =~ \'shape\':\ *\(([0-9]+),\ *([0-9]+)\) ]]; then
    echo "no matrix by its .npy header"
    return 1
  fi
  if ((size != start + length + BASH_REMATCH[1] * BASH_REMATCH[2] * bytes)); then
    echo "$size bytes found, $((start + length + BASH_REMATCH[1] * BASH_REMATCH[2] * bytes)) expected by its header"
    return 1
  fi
  echo "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
}

# Dies, naming the file, unless $1 is a whole file of format $2 with $3 rows of dimension $4 (0: any).
verify() {
  local shape
  shape=$(shape_of "$1" "$2") || die "$1: $shape; remove it and try again"
  if (($3 != 0 && ${shape% *} != $3)); then die "$1: ${shape% *} rows found, $3 expected; remove it and try again"; fi
  if (($4 != 0 && ${shape#* } != $4)); then die "$1: dimension ${shape#* } found, $4 expected"; fi
  printf '%s: %s rows of dimension %s\n' "$1" "${shape% *}" "${shape#* }"
}

# Whether file $1 (an interrupted download) lacks nothing of its $2 rows (0: as many as its header says).
whole() {
  local name=${1%.part} shape
  [[ -e $1 ]] || return
  if [[ $name == *.gz ]]; then
    gzip -t "$1" 2>/dev/null
  else
    shape=$(shape_of "$1" "${name##*.}") && (($2 == 0 || ${shape% *} == $2))
  fi
}

# Fetches URL $1 into $2, going on at its present end.
fetch() {
  local status=0 host=${1#*://}
  printf '%s -> %s\n' "$1" "$2"
  if command -v curl >/dev/null; then
    curl --fail --location --progress-bar --retry 3 --connect-timeout 30 --continue-at - --output "$2" "$1" || status=$?
  elif command -v wget >/dev/null; then
    wget --tries 3 --timeout 30 --continue --output-document "$2" "$1" || status=$?
  else
    die "neither curl nor wget found; apt-get install curl"
  fi
  if ((status != 0)); then
    die "cannot fetch $1 (exit status $status): is ${host%%/*} reachable from here? What came is kept; run this again to go on. data/sift-sample needs no network."
  fi
}

# $1 (.fbin: uint32 n, uint32 d, then float32 values) -> $2 (.npy)
fbin_to_npy() {
  local n d header
  n=$(int_at "$1" 0)
  d=$(int_at "$1" 4)
  printf -v header "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }" "$n" "$d"
  {
    printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "$header" # 10 bytes of prefix + 118 of header: aligned to 64
    tail -c +9 "$1"
  } >"$2"
}

# One row of files(): set $1, file $2, rows $3, d $4, place $5; into folder $6.
download() {
  local url=$5 target=$6/$2 part=$6/${5##*/}.part
  if [[ -e $target ]]; then
    verify "$target" "${target##*.}" "$3" "$4"
    return
  fi
  mkdir -p "$6"
  [[ -z $mirror ]] || url=$mirror/$1/${5##*/}
  whole "$part" "$3" || fetch "$url" "$part"
  case $url in
    *.gz)
      gzip -dc "$part" >"$target.tmp" || die "$part: damaged gzip file; remove it and try again"
      verify "$target.tmp" "${target##*.}" "$3" "$4"
      mv "$target.tmp" "$target"
      rm "$part"
      ;;
    *.fbin)
      verify "$part" fbin "$3" "$4"
      fbin_to_npy "$part" "$target.tmp"
      mv "$target.tmp" "$target"
      rm "$part"
      ;;
    *)
      verify "$part" "${target##*.}" "$3" "$4"
      mv "$part" "$target"
      ;;
  esac
}

dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mirror=
sets=()
while (($# > 0)); do
  case $1 in
    --help | -h) usage && exit ;;
    --list) files | column -t && exit ;;
    --dir | --mirror)
      (($# > 1)) || die "$1 needs a value"
      if [[ $1 == --dir ]]; then dir=$2; else mirror=${2%/}; fi
      shift
      ;;
    bigann | deep | contriever | fb-ssnpp) sets+=("$1") ;;
    *) die "'$1' is neither an option nor a set; bigann, deep, contriever and fb-ssnpp are" ;;
  esac
  shift
done
if ((${#sets[@]} == 0)); then
  usage >&2
  exit 2
fi
for set in "${sets[@]}"; do
  while read -r name file rows d url; do
    [[ $name != "$set" ]] || download "$name" "$file" "$rows" "$d" "$url" "$dir/$name"
  done < <(files)
done
