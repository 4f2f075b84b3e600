#!/usr/bin/env bash
# The first ten minutes: starts a server, evaluates three operators, compares each with its float64 definition, and lets a
# small language model write while the server is killed and started anew.
# ATTND_BIN: folder of the programs. ATTND_ONCE=1: exit after the demonstration. ATTND_PORT, ATTND_METRICS_PORT: other
# ports than 8001 and 8002.
set -euo pipefail
bin=${ATTND_BIN:?}
grpc=${ATTND_PORT:-8001}
http=${ATTND_METRICS_PORT:-8002}
address=localhost:$grpc
models=$(cd "$(dirname "$0")/../models/weights" && pwd)

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

work=$(mktemp -d)
log=$work/log
serve() {
  rm -f "$work/ports"
  "$bin/attnd" serve --port "$grpc" --metrics-port "$http" --port-file "$work/ports" --log-format text \
    --models "$models" --state-dir "$work/sessions" 2>"$log" &
  server=$!
  for _ in $(seq 300); do
    ready && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  ready || { cat "$log" >&2; echo "the server did not start" >&2; exit 1; }
}
stop() { kill -TERM "$server" 2>/dev/null && wait "$server" || true; rm -rf "$work"; }
trap stop EXIT
trap 'exit 130' INT TERM

# The file as well: who answers may be another server on the same port.
ready() { [ -e "$work/ports" ] && "$bin/attndctl" --address "$address" health >/dev/null 2>&1; }
serve

say "Serving on $address (gRPC) and http://localhost:$http (status, metrics)"
grep -iE 'device|cuda' "$log" | head -n 2 || true

say "Three operators: what they answer, and how far that is from their float64 definitions"
for op in softmax_attention gla gated_delta_rule; do
  show "$bin/attndctl" --address "$address" eval "$op" --random --dim B=1 --dim T=512 --dim K=64 --dim V=64 --seed 1 \
    --save-inputs "$work/$op.npz"
  show "$bin/attndctl" --address "$address" compare "$op" --inputs "$work/$op.npz"
  echo
done

say "A session of a small language model; the server is killed while it writes, and started anew"
prompt="It was a dark and stormy night"
ctl() { "$bin/attndctl" --address "$address" "$@"; }
ctl session create attnd-text-small --name demo --seed 4 >/dev/null
ctl session append demo "$prompt" >/dev/null
behind_prompt=$(ctl --json session get demo | grep -oE '"position": *"?[0-9]+' | grep -oE '[0-9]+')
printf '\033[2m$ %s session decode demo --max-tokens 600 --temperature 0.7\033[0m\n%s' "$bin/attndctl" "$prompt"
ctl session decode demo --max-tokens 600 --temperature 0.7 2>/dev/null > >(tee "$work/written") &
writer=$!
sleep 0.3
kill -KILL "$server"
wait "$server" 2>/dev/null || true
printf '\033[1m[killed here]\033[0m'
serve
wait "$writer"
ctl session fork demo --name undisturbed --position "$behind_prompt" >/dev/null
ctl session decode undisturbed --max-tokens 600 --temperature 0.7 >"$work/undisturbed" 2>/dev/null
cmp "$work/written" "$work/undisturbed"
echo "A fork from the prompt, which nobody disturbed, wrote the same."

ctl=$bin/attndctl
[ "$grpc" = 8001 ] || ctl="$ctl --address $address"
say "Next"
cat <<TEXT
  $ctl list                                   # every operator
  $ctl describe gla                           # its inputs, attributes, outputs
  $ctl eval gla --random --dim T=4096         # run it
  $ctl bench gla --seconds 3                  # calls per second
  $ctl session list                           # the session that was killed
  $ctl chat attnd-text-small                    writes on with you; Ctrl-D ends it
  http://localhost:$http                                   status, metrics, probes
  README.md has ten lines of Python; docs/adding-an-operator.md adds an operator of yours.
TEXT
[ "${ATTND_ONCE:-0}" = 1 ] && exit 0
say "Ctrl-C stops the server."
wait "$server"
