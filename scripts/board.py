"""Writes Grafana's board: `python scripts/board.py > docker/monitoring/grafana/boards/lepo.json`.

A table of panels is kept here, since the file that Grafana reads is mostly coordinates. Leaves out what only Grafana's
own editor can say; who wants another board copies this one there. Names begin with lepo (LEPO_METRICS_PREFIX).
"""

import json
import sys
from dataclasses import dataclass
from typing import Any, Final

SOURCE: Final = {"type": "prometheus", "uid": "lepo"}
ACROSS, HIGH = 8, 7  # of a panel, in Grafana's grid of 24
ASKED: Final = '{handler!~"/health|/ready|/metrics"}'  # no probes, no scrapes
FAILED: Final = '{status=~"5..", handler!~"/health|/ready|/metrics"}'
ANSWERS: Final = '{handler=~"/v1/(chat/completions|completions|responses|messages)"}'


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: lines by name, each a query."""

    title: str
    says: str  # what to look for
    lines: dict[str, str]  # legend, which may name labels -> PromQL
    unit: str = "short"  # as Grafana calls it
    most: float | None = None  # of the axis


def quantiles(name: str, *, where: str = "") -> dict[str, str]:
    """Give the median and the 95th percentile of a histogram."""
    rate = f"sum by (le) (rate(lepo:{name}_bucket{where}[$__rate_interval]))"
    return {"median": f"histogram_quantile(0.5, {rate})", "95%": f"histogram_quantile(0.95, {rate})"}


def rate(name: str, labels: str = "") -> str:
    """Give what a counter grows by in a second, over all servers."""
    return f"sum(rate(lepo:{name}_total{labels}[$__rate_interval]))"


ROWS: Final[dict[str, list[Panel]]] = {
    "Is it improving": [
        Panel(
            "Live reward",
            "Mean of the newest 400 graded answers of the policy that serves. Few answers just after a promotion.",
            {"live reward": "max(lepo:live_reward)"},
        ),
        Panel(
            "Held-out accuracy",
            "Share of the held-out prompts that the serving policy answered right. Empty without LEPO_HELDOUT.",
            {"held-out accuracy": "max(lepo:heldout_accuracy)"},
            "percentunit",
            1,
        ),
        Panel(
            "Policy version",
            "What each server starts new answers on. Servers differ only while a swap is under way.",
            {"{{instance}}": "lepo:policy_version"},
        ),
        Panel(
            "Updates of the last day",
            "What came of them. Refused: worse on held-out prompts. Failed: lepo jobs list says why.",
            {"{{outcome}}": "max by (outcome) (lepo:updates_last_day)"},
        ),
        Panel(
            "Grades that wait",
            "To be learned from, and answers whose grader has not run.",
            {"to learn from": "max(lepo:grades_waiting)", "for their grader": "max(lepo:grades_pending)"},
        ),
        Panel(
            "Age of the oldest",
            "Grows without end where nothing is learned, or no grader runs.",
            {
                "to learn from": "max(lepo:grades_waiting_oldest_seconds)",
                "for its grader": "max(lepo:grades_pending_oldest_seconds)",
            },
            "s",
        ),
        Panel(
            "Since the last update",
            "That made a policy.",
            {"ago": "time() - max(lepo:last_update_timestamp_seconds)", "frozen": "max(lepo:learning_frozen)"},
            "s",
        ),
        Panel(
            "Staleness",
            "Versions between the policy that answered and the one that learned from it, a mean over the last update.",
            {"versions": "max(lepo:last_update_staleness)"},
        ),
        Panel(
            "Divergence",
            "Between the two, in nats per step. Above 0.1 the update corrects for much.",
            {"nats per step": "max(lepo:last_update_divergence)"},
        ),
    ],
    "The engine": [
        Panel(
            "Load",
            "Choices being decoded, waiting for a slot, and slots.",
            {
                "running": "sum(lepo:num_requests_running)",
                "waiting": "sum(lepo:num_requests_waiting)",
                "slots": "sum(lepo:slots)",
            },
        ),
        Panel(
            "Cache in use",
            "Share of the blocks that answers and prompts hold. At 1 answers give theirs up (preemptions).",
            {"{{instance}}": "lepo:kv_cache_usage_perc"},
            "percentunit",
            1,
        ),
        Panel(
            "Prompts found in the cache",
            "Share of prompt tokens that were not computed again.",
            {"hits": f"{rate('prefix_cache_hits')} / {rate('prefix_cache_queries')}"},
            "percentunit",
            1,
        ),
        Panel(
            "Steps per second",
            "Answer tokens, and latent steps before them.",
            {"tokens": rate("generation_tokens"), "latent steps": rate("latent_steps")},
            "ops",
        ),
        Panel(
            "What should not be",
            "Per second: too little cache, a full queue, logits that are not numbers, weights that were not taken.",
            {
                "preemptions": rate("num_preemptions"),
                "refused": rate("requests_refused"),
                "not finite": rate("requests_not_finite"),
                "failed swaps": rate("swap_failures"),
            },
            "ops",
        ),
        Panel(
            "A swap's pause",
            "How long the step loop stood still.",
            quantiles("swap_pause_seconds"),
            "s",
        ),
    ],
    "Requests": [
        Panel(
            "Requests by status",
            "Per second, without probes. 499: the client left.",
            {"{{status}}": f"sum by (status) (rate(lepo:http_requests_total{ASKED}[$__rate_interval]))"},
            "reqps",
        ),
        Panel(
            "Share that fails",
            "Statuses of 500 and above. Alerts from 2%.",
            {"5xx": f"({rate('http_requests', FAILED)} or vector(0)) / {rate('http_requests', ASKED)}"},
            "percentunit",
        ),
        Panel(
            "Time of an answer",
            "Over HTTP, streams to their end.",
            quantiles("http_request_duration_seconds", where=ANSWERS),
            "s",
        ),
        Panel("To the first token", "From submission.", quantiles("time_to_first_token_seconds"), "s"),
        Panel("Between two tokens", "Of a choice.", quantiles("inter_token_latency_seconds"), "s"),
        Panel("In the queue", "Until prefill begins.", quantiles("request_queue_time_seconds"), "s"),
    ],
    "What it stands on": [
        Panel(
            "Servers and Postgres", "1: answers.", {"{{instance}}": 'up{job="lepo"}', "Postgres": "min(lepo:store_up)"}
        ),
        Panel(
            "Disk that is free",
            "Where checkpoints are written. Alerts below 10%.",
            {"free": "min(lepo:disk_free_bytes / lepo:disk_size_bytes)"},
            "percentunit",
            1,
        ),
        Panel(
            "Alerts",
            "What fires or is about to; what to do stands in its annotation, under Alerting.",
            {"{{alertname}} {{alertstate}}": "ALERTS or vector(0)"},
        ),
    ],
}


def board() -> dict[str, Any]:
    """Lay the table out."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}, "panels": []})
        top += 1
        for index, panel in enumerate(row):
            at = {"x": index % 3 * ACROSS, "y": top + index // 3 * HIGH, "w": ACROSS, "h": HIGH}
            panels.append(drawn(panel, at))
        top += -(-len(row) // 3) * HIGH
    return {
        "uid": "lepo",
        "title": "lepo: is it improving",
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "tags": ["lepo"],
        "panels": [{"id": number, **one} for number, one in enumerate(panels, 1)],
    }


def drawn(panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    """Write one panel in Grafana's words."""
    limits = {"min": 0, "max": panel.most} if panel.most is not None else {}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.says,
        "datasource": SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": panel.unit, **limits}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for number, (legend, query) in enumerate(panel.lines.items())
        ],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(board(), indent=1) + "\n")
