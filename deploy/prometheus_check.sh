#!/usr/bin/env bash
# Checks Prometheus's configuration, the rules with their tests, and the services' metrics pages.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${BIN:-.venv/bin}/python

if ! command -v promtool >/dev/null; then
    echo "promtool is not installed (Debian: apt-get install prometheus): its checks are skipped"
    exit 0
fi
promtool check config --lint-fatal deploy/prometheus/prometheus.yml
promtool test rules deploy/prometheus/rules_test.yml
for service in channel receiver transmitter; do
    echo "Checking the metrics of $service"
    "$python" deploy/metrics_page.py "$service" | promtool check metrics
done
