#!/bin/sh
# Many languages on a Slurm cluster, one array task each; run again, it skips the finished ones:
#
#   sbatch trainer/scripts/slurm.sh ar zh de pl
#
# Set --array to the number of languages less one. Data and models lie on storage that all nodes share.
#SBATCH --job-name=swr-adapt
#SBATCH --array=0-3
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=02:00:00
#SBATCH --requeue
set -eu
shift "$SLURM_ARRAY_TASK_ID"
RAYON_NUM_THREADS=$SLURM_CPUS_PER_TASK swr-train --quiet adapt --data "${SWR_DATA:-/shared/speech}" \
  --models "${SWR_MODELS:-models/small}" --work "${SWR_WORK:-runs}/$1" --lang "$1" --budget "${SWR_BUDGET:-10%}"
