# syntax=docker/dockerfile:1
# PhenoKit in a container: the app, or any phenokit command. See docs/deployment.md.
#
#   docker build --build-arg TORCH_INDEX_URL=... --tag phenokit:cpu .   CPU wheel of torch
#   docker build --tag phenokit:cuda .                                 default wheel, CUDA
#
# The base is pinned by version. Pin it by digest where you build for others:
#   --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX_URL=""
ARG TORCH_SHA256=""
ENV PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY deploy/install.sh deploy/requirements.txt deploy/requirements-torch.txt deploy/
RUN TORCH_INDEX_URL="${TORCH_INDEX_URL}" TORCH_SHA256="${TORCH_SHA256}" \
    sh deploy/install.sh /opt/phenokit
COPY pyproject.toml README.md LICENSE NOTICE app.py ./
COPY .streamlit .streamlit
COPY models models
COPY pages pages
COPY phenokit phenokit
COPY deploy/start.py deploy/health.py deploy/sbom.cdx.jso[n] deploy/
# Editable: the image is a checkout, with models, pages and settings where they are
# everywhere else. Byte code is made now, since nothing can be written later; pip made that
# of the packages.
RUN /opt/phenokit/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable . \
    && /opt/phenokit/bin/python -m pip check \
    && /opt/phenokit/bin/python -m pip uninstall --quiet --yes pip \
    && /opt/phenokit/bin/python -m compileall -q /app/phenokit /app/pages /app/deploy

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="PhenoKit" \
      org.opencontainers.image.description="Phenotypes from ECGs and intracranial EEGs; research use, not for diagnosis" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# No pip to install anything with; one folder to write to, which nobody else may read.
RUN rm -rf /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip \
    && groupadd --gid 10001 phenokit \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin phenokit \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /opt/phenokit /opt/phenokit
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/phenokit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_STATE_HOME=/data/state \
    XDG_CACHE_HOME=/data/cache \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 \
    STREAMLIT_BROWSER_SERVER_ADDRESS=localhost
USER 10001:10001
VOLUME /data
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "/app/deploy/health.py"]
ENTRYPOINT ["python", "/app/deploy/start.py"]
CMD ["app"]
