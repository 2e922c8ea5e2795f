#!/usr/bin/env bash
# A Ray cluster on this one machine, a head and a worker, scores some 600 simulated ECGs; every
# byte is compared with what the local engine wrote. docs/ray.md. A few minutes.
#
#   scripts/ray_example.sh [FOLDER]      default: a temporary folder
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${BIN:-.venv/bin}"
out="${1:-$(mktemp -d)}"
address=127.0.0.1:6390

# Who has the token may run code on the cluster; nobody else may.
RAY_AUTH_TOKEN="$("$bin/python" -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

"$bin/phenokit" demo --out "$out/demo" --patients 0 --ieegs 0
for k in $(seq 1 40); do
    mkdir -p "$out/records/$k"
    cp "$out"/demo/demo*.hea "$out"/demo/demo*.dat "$out/records/$k/"
done

"$bin/phenokit" score "$out/records" --out "$out/local" --model ecg-demo --device cpu --workers 1

# On machines of your own: the first command on one, the second on the others.
node=(--block --num-cpus=2 --object-store-memory=100000000 --disable-usage-stats)
"$bin/ray" start --head --port="${address#*:}" --include-dashboard=false "${node[@]}" \
    >"$out/head.log" 2>&1 &
head=$!
trap 'kill "$head" 2>/dev/null; wait' EXIT
until "$bin/ray" health-check --address "$address" 2>>"$out/head.log"; do sleep 1; done
"$bin/ray" start --address="$address" "${node[@]}" >"$out/worker.log" 2>&1 &
worker=$!
trap 'kill "$worker" "$head" 2>/dev/null; wait' EXIT
until "$bin/ray" status --address "$address" 2>>"$out/head.log" | grep -q "/4.0 CPU"; do
    sleep 1
done
"$bin/ray" status --address "$address"

# Three actors on two machines of two processors each; one processor stays free.
RAY_ADDRESS="$address" "$bin/phenokit" score "$out/records" --out "$out/ray" \
    --model ecg-demo --device cpu --engine ray --workers 3
"$bin/phenokit" verify "$out/ray"

diff --recursive --exclude=progress.json "$out/local" "$out/ray"
echo "the same bytes in $(find "$out/ray" -name 'part-*.parquet' | wc -l) parts, report and manifest"
