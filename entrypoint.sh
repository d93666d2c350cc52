#!/bin/sh
# Starts the server in the container. Without ADMIN_TOKEN one is made at the first start, kept in
# the data volume and printed once; ADMIN_TOKEN=none is local mode, without keys.
set -eu

if [ -z "${ADMIN_TOKEN:-}" ]; then
    folder="${DATA_DIR:-data}"
    file="$folder/admin-token"
    if [ ! -s "$file" ]; then
        mkdir -p "$folder"
        # Nobody else may read it; and a container that is killed here leaves no half of one.
        (umask 077 && python -c "import secrets; print(secrets.token_urlsafe(32))" >"$file.new")
        mv "$file.new" "$file"
        echo "Admin token, shown this once and kept in $file: $(cat "$file")" >&2
    fi
    ADMIN_TOKEN="$(cat "$file")"
    export ADMIN_TOKEN
fi

exec qwen3-audio serve "$@"
