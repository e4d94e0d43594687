# otherview for NVIDIA GPUs; torch's wheels bring CUDA, the machine needs only the driver and its container toolkit.
#
#   docker build -t otherview .
#   docker run --rm --gpus all --ipc=host --user "$(id -u):$(id -g)" -v "$PWD:/work" otherview doctor --data photos/
#
# --ipc=host: the loader's workers hand batches over in shared memory, of which a container has 64 MB otherwise.
FROM python:3.12-slim

# `--training.compile whole` needs a C compiler.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

# Extras, such as --build-arg EXTRAS=[tiff,export,detection]
ARG EXTRAS=""
COPY pyproject.toml README.md LICENSE NOTICE /otherview/
COPY otherview /otherview/otherview
RUN pip install --no-cache-dir "/otherview$EXTRAS"

# Any user may run it: caches of this and other libraries lie where everybody may write.
ENV OTHERVIEW_CACHE=/tmp/otherview HOME=/tmp
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
ENTRYPOINT ["otherview"]
CMD ["--help"]
