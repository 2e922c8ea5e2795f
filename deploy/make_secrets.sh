#!/bin/sh
# The secret by which the app knows that a request came through the proxy: once bare, for the
# app, and once as a line of the proxy's configuration. Containers read both as another user,
# so the folder keeps others out and the files do not.
set -eu
umask 077
folder="$(dirname "$0")/secrets"
mkdir -p "$folder"
secret="$(python3 -c 'import secrets; print(secrets.token_urlsafe(32))')"
printf '%s\n' "$secret" >"$folder/proxy_secret"
printf 'proxy_set_header X-PhenoKit-Proxy "%s";\n' "$secret" >"$folder/proxy_secret.conf"
chmod 444 "$folder/proxy_secret" "$folder/proxy_secret.conf"
