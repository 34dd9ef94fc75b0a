#!/usr/bin/env bash
# Lint, format, types, imports, tests: the same here and in CI.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory setup
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports --no-logo
make --no-print-directory test
