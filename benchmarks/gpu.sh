#!/usr/bin/env bash
# Time training and evaluation on one GPU, in less than 9 minutes on an H100 or H200 (an estimate).
#
#     benchmarks/gpu.sh --out OUT --timm-train train.py    # on a GPU; results: OUT/gpu.jsonl
#     benchmarks/gpu.sh --out OUT --dry-run                # on a CPU: tiny models, a few steps
#     python benchmarks/gpu.py report OUT/gpu.jsonl        # add to results/gpu.jsonl, write the table in speed.md
#
# PYTHON is the interpreter, python by default. timm's train.py: see benchmarks/throughput.py --help.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "${PYTHON:-python}" benchmarks/gpu.py run "$@"
