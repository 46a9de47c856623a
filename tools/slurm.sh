#!/usr/bin/env bash
# Train on several machines under Slurm: sbatch tools/slurm.sh CONFIG WORK_DIR [train.py's other arguments]
#
# One agent of torchrun a machine, one process a GPU. Two minutes before the time limit Slurm sends TERM, which torchrun
# passes on: all processes stop after the same step and save (within 30 seconds, else the last checkpoint counts), and the
# job puts itself back into the queue. Slurm requeues it too when a machine fails.
#SBATCH --job-name=xmodal
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # else restarted processes of torch 2.14 meet addresses of dead ones
config=$1 work_dir=$2
shift 2

nodes=${SLURM_JOB_NUM_NODES:-${SLURM_NNODES:-1}}
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
agent=(torchrun --nnodes="$nodes" --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" --max-restarts="${RESTARTS:-3}"
  --rdzv-backend=c10d --rdzv-endpoint="$host:$port" --rdzv-id="$SLURM_JOB_ID")
srun --kill-on-bad-exit=1 "${agent[@]}" "${TRAIN:-tools/train.py}" "$config" --work-dir "$work_dir" --resume \
  --launcher pytorch "$@"
status=$?
# torchrun ends with 1 whatever its processes ended with: the report says whether they were stopped and have saved
done=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["status"])' "$work_dir/report.json" 2>/dev/null)
if [ "$status" -ne 0 ] && [ "$done" = stopped ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
