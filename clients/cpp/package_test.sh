#!/usr/bin/env bash
# package_test.sh CMAKE BUILD EXAMPLE: installs the client of BUILD into a fresh prefix, builds EXAMPLE with that alone, and
# runs it against the server of BUILD.
set -euo pipefail
cmake=$1 build=$2 example=$3
work=$(mktemp -d)
server=
finish() {
  if [ -n "$server" ]; then kill "$server" && wait "$server" || true; fi
  rm -rf "$work"
}
trap finish EXIT

"$cmake" --install "$build" --component client --prefix "$work/prefix" > "$work/install.log"
"$cmake" -S "$example" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$work/prefix"
"$cmake" --build "$work/build"

"$build/bin/attnd" serve --port 0 --metrics-port -1 --port-file "$work/ports.json" 2> "$work/server.log" &
server=$!
for _ in $(seq 300); do
  [ -e "$work/ports.json" ] && break
  kill -0 "$server" || { cat "$work/server.log" >&2; exit 1; }
  sleep 0.1
done
port=$(sed 's/.*"grpc":\([0-9]*\).*/\1/' "$work/ports.json")
"$work/build/example" "localhost:$port"
