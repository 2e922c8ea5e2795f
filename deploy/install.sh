#!/bin/sh
# Installs what PhenoKit needs into a new environment: a step of the Dockerfile, and of a
# server without containers. Only files whose hash is on the list are taken.
#
#   sh deploy/install.sh ENVIRONMENT
#
# TORCH_INDEX_URL  package index of another torch wheel of the same version, such as the
#                  CPU one; empty: torch with its CUDA libraries from the default index
# TORCH_SHA256     hash of that wheel; empty: it is pinned by its version alone
set -eu

environment="$1"
here="$(dirname "$0")"
list="$here/requirements.txt"
one="$(mktemp)"
trap 'rm -f "$one"' EXIT

install() {
    "$environment/bin/python" -m pip --disable-pip-version-check install --quiet \
        --no-deps --only-binary :all: "$@"
}

python3 -m venv "$environment"

# One package has no wheel (autograd-gamma, of lifelines). It is pure Python and built by
# the setuptools of the list, so that nothing unlisted is fetched to build it.
sed -n '/^setuptools==/,/[^\\]$/p' "$list" >"$one"
install --require-hashes --requirement "$one"
install --require-hashes --requirement "$list" \
    --no-binary autograd-gamma --no-build-isolation --use-pep517

if [ -z "${TORCH_INDEX_URL:-}" ]; then
    install --require-hashes --requirement "$here/requirements-torch.txt"
elif [ -n "${TORCH_SHA256:-}" ]; then
    echo "torch==2.13.0 --hash=sha256:$TORCH_SHA256" >"$one"
    install --index-url "$TORCH_INDEX_URL" --require-hashes --requirement "$one"
else
    install --index-url "$TORCH_INDEX_URL" "torch==2.13.0"
fi
