#!/usr/bin/env bash
# sbatch cluster/slurm.sh run my.yaml --output /shared/runs/mine
# A Ray cluster on the job's nodes for as long as the job lasts; the first node is the head and runs the program.
#SBATCH --job-name=hubbub
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

cd "${HUBBUB_HOME:-$SLURM_SUBMIT_DIR}"
export PATH="$PWD/.venv/bin:$PATH" RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-$(python -c 'import secrets; print(secrets.token_hex(32))')}"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}'):6379
gpus=${SLURM_GPUS_ON_NODE:-0}

srun --nodes=1 --ntasks=1 -w "$head" ray start --head --port=6379 --num-cpus="$SLURM_CPUS_PER_TASK" \
  --num-gpus="$gpus" --block &
sleep 15
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 -w "$node" ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" \
    --num-gpus="$gpus" --block &
done
sleep 15

# When time runs out, training is told so, writes a checkpoint, and the next job with the same command goes on.
hubbub "$@" --ray-address "$address"
