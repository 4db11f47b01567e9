#!/usr/bin/env bash
# Has other people's tools judge the API of a running engine. promtool must have nothing to say against /metrics.
# schemathesis (PyPI) makes requests, good and bad ones, for about a minute, and every answer must be one that the OpenAPI
# document tells of, and no failure of ours (5xx). Needs the binary (`cargo build`, target/debug), promtool (Debian:
# prometheus), Python 3 with venv, and PyPI the first time. The seed is `SCHEMATHESIS_SEED`, by default 7.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=4.32.5
venv="$PWD/target/services/packages/schemathesis-$version"
edr="$PWD/target/debug/clawdstrike-edr"
[ -x "$edr" ] || { echo "error: \"$edr\" isn't there: cargo build" >&2; exit 1; }
if [ ! -x "$venv/bin/st" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi

folder=$(mktemp -d)
engine=
stop() {
  if [ -n "$engine" ]; then
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
  fi
  rm -rf "$folder"
}
trap stop EXIT

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir "$folder/rules" "$folder/data"
cp rules/ai-threats.yaml "$folder/rules/"
cat >"$folder/workers.toml" <<TOML
[cluster]
threads = 2
[[source]]
type = "jsonl"
name = "events"
path = "data"
[response]
agent_control_api = "http://127.0.0.1:9"
requires_approval = ["terminate_session"]
[api]
listen = "127.0.0.1:$port"
requests_per_second = 100000
TOML
for n in $(seq 10 59); do
  for what in 'file_access","action":{"target":"/home/u/.ssh/id_rsa"}' 'network_egress","action":{"target":"evil.example:443"}'; do
    echo "{\"agent_id\":\"agent-$((n % 5))\",\"session_id\":\"s$n\",\"timestamp\":\"2024-05-06T10:00:${n}Z\",\"event_type\":\"$what,\"result\":{\"allowed\":false}}"
  done
done >"$folder/data/events.jsonl"

cd "$folder"
token=$("$edr" token create --config workers.toml --role administrator --name schemathesis 2>/dev/null)
"$edr" up --config workers.toml >up.out 2>up.log &
engine=$!
cd - >/dev/null
api="http://127.0.0.1:$port"
export CLAWDSTRIKE_API=$api CLAWDSTRIKE_TOKEN=$token
deadline=$((SECONDS + 60))
# There is something to ask for once there are alerts.
until "$edr" alerts list --limit 1 2>/dev/null | grep -q CREDENTIAL; do
  if [ $SECONDS -ge $deadline ]; then
    cat "$folder/up.log" >&2
    echo 'error: no alert within 60 s' >&2
    exit 1
  fi
done

ask='import sys, urllib.request as u; print(u.urlopen(u.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]})).read().decode(), end="")'
said=$(python3 -c "$ask" "$api/metrics" "$token" | promtool check metrics 2>&1)
if [ -n "$said" ]; then
  printf 'error: promtool check metrics: %s\n' "$said" >&2
  exit 1
fi

# Watches have no end, so they aren't asked for. From there, since it leaves files where it is called.
cd "$folder"
"$venv/bin/st" run "$api/v1/openapi.json" \
  --header "Authorization: Bearer $token" --generation-with-security-parameters false \
  --exclude-path-regex 'watch$' \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,negative_data_rejection,unsupported_method \
  --phases coverage,fuzzing --max-examples 30 --max-time 40 --seed "${SCHEMATHESIS_SEED:-7}" --generation-database none \
  --continue-on-failure --no-color --warnings off
"$edr" agents --limit 1 >/dev/null
