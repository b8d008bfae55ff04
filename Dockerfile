# syntax=docker/dockerfile:1
# One image for the API and the workers. Built in one stage, run in another without compilers, as an unprivileged user.

FROM python:3.12-slim-bookworm AS build
# A package index with another build of torch than the usual one, which runs on processors and NVIDIA GPUs and is large:
# PyTorch's own index of processor builds makes a small image without GPUs.
ARG TORCH_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# For the updates of majority kernels on a processor.
RUN apt-get update \
    && apt-get install --no-install-recommends -y gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && python -m venv /opt/collegium
ENV PATH=/opt/collegium/bin:$PATH
WORKDIR /build
# torch first: its layer stays while the project changes.
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt torch
COPY pyproject.toml setup.py README.md LICENSE ./
COPY collegium collegium
COPY app app
COPY jobs jobs
COPY migrations migrations
COPY search search
COPY train train
COPY worker worker
RUN pip install -c constraints.txt '.[transformers,onnx,s3,augment]'

FROM python:3.12-slim-bookworm
RUN apt-get update \
    && apt-get install --no-install-recommends -y libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/collegium --create-home collegium
COPY --from=build /opt/collegium /opt/collegium
ENV PATH=/opt/collegium/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    COLLEGIUM_HOME=/var/lib/collegium
USER collegium
WORKDIR /var/lib/collegium
VOLUME /var/lib/collegium
EXPOSE 8321
CMD ["collegium", "serve", "--no-worker", "--host", "0.0.0.0"]
