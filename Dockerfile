# The command ssia-zoo in a container; what it reads and writes is in /data:
#   docker build --tag ssia-zoo .
#   docker run --rm --volume "$PWD:/data" ssia-zoo predict photo.jpg --model resnet18_ssia
# For NVIDIA GPUs: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 …, docker run --gpus all …
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.8" "torchvision>=0.23"
COPY setup.py setup.cfg pyproject.toml MANIFEST.in README.md LICENSE ./
COPY ssia_zoo ssia_zoo
COPY hub_configs hub_configs
COPY export export
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[plots]" \
    && useradd --create-home --uid 1000 ssia

USER 1000
WORKDIR /data
ENTRYPOINT ["ssia-zoo"]
