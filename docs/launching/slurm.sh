#!/usr/bin/env bash
# One worker per node, from the root of a checkout on a mount that all nodes see:
#   sbatch docs/launching/slurm.sh
#SBATCH --job-name=lcn
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --output=lcn_%j.log
#SBATCH --open-mode=append
# a checkpoint is saved five minutes before the time is over
#SBATCH --signal=TERM@300
#SBATCH --requeue
set -uo pipefail
. .venv/bin/activate

srun --label --distribution=block \
  python -m tools.cluster_config --cluster slurm -- \
  python -m pipelines.train --config configs/amazon/lcn.yaml --records my_records --run_dir my_run \
  --set train.strategy=multi_worker
code=$?

# a lost worker, a kill, a saved checkpoint: the job goes on
case "$code" in
  75 | 137 | 143)
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
    ;;
esac
exit "$code"
