#!/usr/bin/env bash
# Breaks the engine on purpose, one patch of `sabotage/` at a time, and lets the fault harness find each: a harness that finds
# nothing must be able to. Prints a row for each; exits with 1 if one wasn't caught.
#
#   bash tests/faults/sabotage.sh [NAME...]     all patches, or these
#
# RUNS (20): so many schedules at most for each. SEED (1): the first. ONLY: kinds of faults, such as "kill-process reload".
# The broken engines are built from the last commit, in a folder of their own; the working tree isn't touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
work=$CARGO_TARGET_DIR/sabotage
tree=$work/tree
# Apart, or the next test would run a broken engine.
broken=$work/target
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  for file in tests/faults/sabotage/*.patch; do names+=("$(basename "$file" .patch)"); done
fi
only=()
for kind in ${ONLY:-}; do only+=(--only "$kind"); done

rm -rf "$tree"
mkdir -p "$tree"
git archive HEAD | tar -x -C "$tree"
cargo build --quiet --package clawdstrike-faults
cp "$CARGO_TARGET_DIR/debug/clawdstrike-faults" "$work/"

missed=0
for name in "${names[@]}"; do
  file=$PWD/tests/faults/sabotage/$name.patch
  log=$work/$name.log
  args=$(sed -n 's/^args: //p' "$file")
  # Not `git apply`: inside of a repository it passes over what isn't part of it.
  patch --quiet --strip=1 --directory="$tree" <"$file"
  (cd "$tree" && CARGO_TARGET_DIR=$broken cargo build --quiet --bin clawdstrike-edr) 2>"$log" || { cat "$log"; exit 1; }
  cp "$broken/debug/clawdstrike-edr" "$work/$name"
  patch --quiet --strip=1 --reverse --directory="$tree" <"$file"
  # shellcheck disable=SC2086 # several arguments
  if "$work/clawdstrike-faults" --binary "$work/$name" $args "${only[@]}" --faults 8 \
    --runs "${RUNS:-20}" --seed "${SEED:-1}" >"$log" 2>&1; then
    printf '| %s | not caught in %s runs |\n' "$name" "${RUNS:-20}"
    missed=1
  else
    seed=$(sed -n 's/^error: .*--seed \([0-9]*\).*/\1/p' "$log")
    faults=$(sed -n '/^error: /,/^all of it/s/^  after [^:]*: //p' "$log" | paste -sd ';')
    # What differs, or what the harness waited for in vain.
    found=$(grep -m 1 -oE '(missing|unexpected) (alert|session|event): |action: [a-z ]+|waited .* in vain.*|the cluster ended.*|after SIGTERM.*' "$log" || tail -n 1 "$log")
    printf '| %s | caught: %s | seed %s | %s |\n' "$name" "${found%: }" "$seed" "$faults"
  fi
done
exit "$missed"
