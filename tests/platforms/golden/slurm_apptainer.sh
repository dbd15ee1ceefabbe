#!/bin/bash
#SBATCH --job-name=tiny-261127-120000
#SBATCH --comment=segadapt
#SBATCH --partition=gpu
#SBATCH --account=town
#SBATCH --qos=normal
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=122070M
#SBATCH --gres=gpu:a100:4
#SBATCH --time=720
#SBATCH --signal=B:TERM@120
#SBATCH --output=/shared/logs/%j.log
#SBATCH --open-mode=append
#SBATCH --export=ALL
#SBATCH --requeue
#SBATCH --constraint=nvlink
#SBATCH --exclusive
module load apptainer
export PET_NPROC_PER_NODE=4
export MLFLOW_TRACKING_URI='http://mlflow:5000/a b'
export SEGADAPT_JOB=tiny-261127-120000
export SEGADAPT_GRACE_S=120
export SEGADAPT_SPEC_BASE64=SPEC
ends=/shared/logs/$SLURM_JOB_ID
rm -f "$ends".end "$ends".node*
asked= ranks=
stop() { asked=1; [ -z "$ranks" ] || kill -TERM "$ranks"; }
trap stop TERM
apptainer exec --nv --no-home --pwd /opt/segadapt --bind=/shared/data:/data:ro --bind=/shared/runs:/runs /shared/segadapt.sif python /opt/segadapt/entrypoint.py run &
ranks=$!
[ -z "$asked" ] || stop
while wait "$ranks"; code=$?; [ -n "$asked" ]; do asked=; done
echo "$code" > "$ends".end
if [ "$code" = 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ] \
    && scontrol requeue Incomplete "$SLURM_JOB_ID" 2>/dev/null; then
    echo "segadapt: queued again, restart $((${SLURM_RESTART_COUNT:-0} + 1)) of 3"
fi
exit "$code"
