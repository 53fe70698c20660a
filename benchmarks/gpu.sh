#!/usr/bin/env bash
# What to run where a GPU is at hand for a few minutes: at most eight, in parts that each have a time limit.
#
#   benchmarks/gpu.sh FOLDER          # on a GPU
#   benchmarks/gpu.sh --tiny FOLDER   # the same parts with tiny shapes on a CPU: does it run?
#
# Parts: the tests marked `gpu`; the cost of a step of trl's SFT, the naive IFT, IFT (auto, full, shared) and DPO, with
# its peak memory, at the widths of Qwen2.5 0.5B, 1.5B and 7B (random weights, 2 or 4 layers); launches and waits of a step.
# FOLDER/gpu-*.json go into docs/records/step-cost, where `performance.gpu gpu-7b` of docs/fill_tables.py reads them.
# Prints FOLDER/summary.json: exit code and seconds of each part (124: it ran out of time).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tiny=
if [ "${1:-}" = --tiny ]; then
  tiny=yes
  shift
fi
folder=${1:?"usage: benchmarks/gpu.sh [--tiny] FOLDER"}
mkdir -p "$folder"
python=${PYTHON:-.venv/bin/python}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
: >"$folder/parts.tsv"

part() { # NAME SECONDS COMMAND...: its output goes to FOLDER/NAME.log
  local name=$1 limit=$2 began=$SECONDS code=0
  shift 2
  [ -z "$tiny" ] || limit=600 # a loaded machine may be slow
  timeout -k 5 "$limit" "$@" >"$folder/$name.log" 2>&1 || code=$?
  printf '%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - began))" >>"$folder/parts.tsv"
}

cost() { # NAME MODEL BATCH: a step of each method; a record after every point, so that a time limit leaves what there is
  local shapes=(--device cuda --dtype bfloat16 --model "$2" --batch "$3" --length 1024 --rounds 5 --limit_seconds 60)
  [ -z "$tiny" ] || shapes=(--model tiny --batch 2 --length 64 --rounds 1 --threads 1)
  part "$1" 95 "$python" benchmarks/step_cost.py "${shapes[@]}" --axes share --share_values 0.1 \
    --methods trl-sft ift-lambda-0 ift ift-full-prefix ift-shared-prefix naive-ift dpo --output "$folder/$1.json"
}

part launches 45 "$python" benchmarks/launches.py ${tiny:+--tiny} --output "$folder/launches.json"
cost gpu-0.5b qwen-0.5b-4 8
cost gpu-1.5b qwen-1.5b-4 8
cost gpu-7b qwen-7b-2 4
part tests 100 "$python" -m pytest -q -m gpu -p no:cacheprovider tests/test_gpu.py

"$python" - "$folder" <<'END'
import json, sys
from pathlib import Path

folder = Path(sys.argv[1])
lines = [line.split("\t") for line in (folder / "parts.tsv").read_text().splitlines()]
parts = {name: {"code": int(code), "seconds": int(seconds)} for name, code, seconds in lines}
records = sorted(path.name for path in folder.glob("*.json") if path.name != "summary.json")
tests = (folder / "tests.log").read_text().strip().splitlines()[-1:]
text = json.dumps({"parts": parts, "records": records, "tests": tests}, indent=1)
(folder / "summary.json").write_text(text + "\n")
print(text)
END
