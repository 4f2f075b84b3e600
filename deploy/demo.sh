#!/usr/bin/env bash
# The first ten minutes: starts a server, evaluates three operators, compares each with its float64 definition.
# ATTND_BIN: folder of the programs. ATTND_ONCE=1: exit after the demonstration.
set -euo pipefail
bin=${ATTND_BIN:?}
grpc=${ATTND_PORT:-8001}
http=${ATTND_HTTP_PORT:-8002}
address=localhost:$grpc

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

log=$(mktemp)
"$bin/attnd" serve --port "$grpc" --metrics-port "$http" --log-format text 2>"$log" &
server=$!
stop() { kill -TERM "$server" 2>/dev/null && wait "$server" || true; rm -f "$log"; }
trap stop EXIT
trap 'exit 130' INT TERM

for _ in $(seq 100); do
  "$bin/attndctl" --address "$address" health >/dev/null 2>&1 && break
  kill -0 "$server" 2>/dev/null || { cat "$log" >&2; echo "the server did not start" >&2; exit 1; }
  sleep 0.1
done
"$bin/attndctl" --address "$address" health >/dev/null || { cat "$log" >&2; exit 1; }

say "Serving on $address (gRPC) and http://localhost:$http (status, metrics)"
grep -iE 'device|cuda' "$log" | head -n 2 || true

say "Three operators, each beside its float64 definition"
for op in softmax_attention gla gated_delta_rule; do
  show "$bin/attndctl" --address "$address" compare "$op" --random \
    --dim B=1 --dim T=512 --dim K=64 --dim V=64 --seed 1
done

say "Next"
cat <<TEXT
  $bin/attndctl list                                   every operator
  $bin/attndctl describe gla                           its inputs, attributes, outputs
  $bin/attndctl eval gla --random --dim T=4096         run it
  $bin/attndctl bench gla --seconds 3                  calls per second
  curl -s localhost:$http/metrics | grep attnd_op      what Prometheus sees
  README.md has ten lines of Python; docs/adding-an-operator.md adds an operator of yours.
TEXT
[ "${ATTND_ONCE:-0}" = 1 ] && exit 0
say "Ctrl-C stops the server."
wait "$server"
