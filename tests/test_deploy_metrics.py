"""What Prometheus scrapes and watches, and what the document tells of it, against the services' own series."""

import importlib.util
import re
from functools import cache

import yaml
from deployment_files import COMPOSE, DOCS, PORTS, ROOT, SERVICES

from channel_emulator.bank import LinkBank
from channel_emulator.metrics import LinkCollector
from channel_emulator.settings import LinkSettings
from shared.boundary import RpcBoundary
from shared.telemetry import new_registry

PROMETHEUS = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
    for rule in group["rules"]
]


@cache
def series():
    """The services' own series and gRPC's: name to (type, names of the labels)."""
    pages = metrics_pages()
    link = new_registry("channel")
    link.register(LinkCollector(LinkBank(LinkSettings()), LinkBank(LinkSettings(), name="backward")))
    RpcBoundary(link)
    return {
        f"{metric.name}{suffix}": (metric.type, labels)
        for registry in (link, pages.registry("transmitter"), pages.registry("receiver"))
        for metric, labels in described(registry)
        for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        if metric.name.startswith(("mmsc_", "grpc_")) and metric.type != "info"
    }


def described(registry):
    for collector in registry._collector_to_names:
        declared = set(getattr(collector, "_labelnames", ()))
        for metric in collector.collect():
            yield metric, declared | {label for sample in metric.samples for label in sample.labels} - {"le"}


def metrics_pages():
    spec = importlib.util.spec_from_file_location("metrics_page", ROOT / "deploy/metrics_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- Prometheus -----------------------------------------------------------------------------------


def test_prometheus_scrapes_the_metrics_port_of_each_service():
    scraped = {job["job_name"]: job["static_configs"][0]["targets"] for job in PROMETHEUS["scrape_configs"]}
    assert scraped == {name: [f"{name}:{metrics_port}"] for name, (_, metrics_port) in PORTS.items()}
    assert all(COMPOSE["services"][name]["expose"] == [PORTS[name][1]] for name in SERVICES)


def test_rules_use_series_and_labels_that_exist():
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    used = set()
    for rule in RULES:
        names = re.findall(r"(?<![\w:])(?:mmsc|grpc_server)_\w+", strip_records(rule["expr"], recorded))
        used |= set(names)
        labels = set(re.findall(r"(\w+)=~?\"", rule["expr"]))
        labels |= {label for by in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in by.split(", ")}
        known = {"job", "instance", "le"}.union(*(series()[name][1] for name in names if name in series()))
        known |= {"outcome"} if set(re.findall(r"[\w:]+", rule["expr"])) & recorded else set()
        assert labels <= known, rule
    assert used <= series().keys()
    assert len(used) > 10


def strip_records(expression, recorded):
    for name in recorded:
        expression = expression.replace(name, "")
    return expression


def test_rules_ask_for_outcomes_that_are_counted():
    pages = metrics_pages()
    counted = {
        sample.labels["outcome"]
        for name in ("transmitter", "receiver")
        for metric in pages.registry(name).collect()
        for sample in metric.samples
        if "outcome" in sample.labels
    } | {"overflow"}
    assert {value for rule in RULES for value in re.findall(r"outcome=\"(\w+)\"", rule["expr"])} <= counted


def test_series_follow_the_conventions():
    for name, (kind, labels) in series().items():
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|millis\w*|minutes|bits|kb|kib|mb|percent)(_|$)", name), name
        # Labels with few values: nothing that a client chooses.
        assert labels <= {
            "outcome",
            "reason",
            "codec",
            "level",
            "stage",
            "grpc_type",
            "grpc_service",
            "grpc_method",
            "grpc_code",
        }, name


# ---- the document ---------------------------------------------------------------------------------


def test_the_document_names_every_series_and_no_other():
    told = set(re.findall(r"^\| `((?:mmsc|grpc)_\w+)", DOCS, flags=re.MULTILINE))
    bases = {
        re.sub(r"_(bucket|sum|count)$", "", name) if kind == "histogram" else name
        for name, (kind, _) in series().items()
    }
    assert told == bases | {"mmsc_build_info", "mmsc_transmitter_relevance_info"}
