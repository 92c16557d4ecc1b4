# The repository with its environment, for a machine with an NVIDIA GPU and the NVIDIA container toolkit:
#   docker build --tag vireid .
#   docker run --rm --gpus all --shm-size 8g --volume "$PWD/datasets:/vireid/datasets" --volume "$PWD/runs:/vireid/runs" \
#       vireid python train.py --config configs/sysu_cmfn.yaml
# torch brings its own CUDA libraries, so the base needs none; the driver is the machine's. --shm-size: loader processes
# hand images over in shared memory, of which a container has 64 MB otherwise.
FROM python:3.11-slim-bookworm

# torch.compile compiles C++ on the CPU, and a launcher for Triton's kernels on the GPU.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /vireid
COPY requirements.txt requirements-optional.txt ./
RUN pip install --no-cache-dir -r requirements.txt -r requirements-optional.txt
COPY . .
CMD ["python", "scripts/check_device.py", "--output", "runs/device"]
