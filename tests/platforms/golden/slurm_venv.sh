#!/bin/bash
#SBATCH --job-name=tiny-261127-120000
#SBATCH --comment=segadapt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --time=1440
#SBATCH --signal=B:TERM@120
#SBATCH --output=/shared/logs/%j.log
#SBATCH --open-mode=append
#SBATCH --export=ALL
#SBATCH --requeue
export CUDA_VISIBLE_DEVICES=''
export NVIDIA_VISIBLE_DEVICES=void
export PET_NPROC_PER_NODE=1
export SEGADAPT_JOB=tiny-261127-120000
export SEGADAPT_GRACE_S=120
export SEGADAPT_SPEC_BASE64=SPEC
ends=/shared/logs/$SLURM_JOB_ID
rm -f "$ends".end "$ends".node*
asked= ranks=
stop() { asked=1; [ -z "$ranks" ] || scancel --signal=TERM "$SLURM_JOB_ID"; }
trap stop TERM
srun --wait=0 --ntasks-per-node=1 \
    sh -c 'trap : TERM; "$@"; code=$?; echo $code > "$0.node$SLURM_NODEID"; exit $code' "$ends" /shared/venv/bin/python -m adapt run &
ranks=$!
[ -z "$asked" ] || stop
while wait "$ranks"; code=$?; [ -n "$asked" ]; do asked=; done
for file in "$ends".node*; do  # 0 and 75 of others do not hide a node's failure
    one=$(cat "$file" 2>/dev/null)
    case $one in ''|0|75) ;; *) code=$one; break ;; esac
done
echo "$code" > "$ends".end
if [ "$code" = 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ] \
    && scontrol requeue Incomplete "$SLURM_JOB_ID" 2>/dev/null; then
    echo "segadapt: queued again, restart $((${SLURM_RESTART_COUNT:-0} + 1)) of 10"
fi
exit "$code"
