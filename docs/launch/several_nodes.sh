#!/bin/bash
# Run the same command on every node; the nodes find each other through the first.
#
#   HEAD=node0 NODES=2 PROCESSES=8 RUN=imagenet-r50 docs/launch/several_nodes.sh --model resnet50 --dataset ...
#
# HEAD: name or address of one of the nodes. PORT: a free port there. RUN: an id, the same on every node, new for every run.
# PROCESSES: GPUs per node. ACCELERATE_USE_CPU=true trains on CPUs. --output-dir must be on storage that all nodes share.
# A node that fails ends the run; with RESTARTS above 0 it is restarted, and --resume auto continues.
set -euo pipefail
: "${HEAD:?name or address of the first node}" "${NODES:?number of nodes}" "${RUN:?id of this run}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "$NODES" --nproc-per-node "${PROCESSES:-8}" --max-restarts "${RESTARTS:-0}" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29400}" --rdzv-id "$RUN" \
    "$here/train_hf.py" --resume auto "$@"
