"""One page of a region's numbers and alarms."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from relight_constructs.bindings import CloudwatchDashboard, Construct
from relight_constructs.props import AlarmsProps, GraphProps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight_constructs.props import DashboardProps, Metric, Note

# CloudWatch's grid, and the widgets that it takes. Source: CloudWatch API reference, "Dashboard body structure".
COLUMNS = 24
MOST_WIDGETS = 500
MOST_METRICS = 500


class Dashboard(Construct):
    """Define a dashboard whose widgets follow one another, row by row, as wide as they say."""

    def __init__(self, scope: Construct, id_: str, props: DashboardProps) -> None:
        super().__init__(scope, id_)
        CloudwatchDashboard(
            self,
            "dashboard",
            dashboard_name=props.name,
            dashboard_body=json.dumps(body(props.widgets, region=props.place.region), separators=(",", ":")),
        )


def body(widgets: Sequence[GraphProps | AlarmsProps | Note], *, region: str) -> dict[str, Any]:
    """The page as CloudWatch reads it. A widget that does not fit beside the last one begins a row.

    ValueError for more widgets, or more metrics in one of them, than CloudWatch takes.
    """
    if len(widgets) > MOST_WIDGETS:
        raise ValueError(f"{len(widgets)} widgets on one page; leave out all but {MOST_WIDGETS}, or make two pages")
    placed: list[dict[str, Any]] = []
    x = y = row = 0
    for widget in widgets:
        if x + widget.width > COLUMNS:
            x, y, row = 0, y + row, 0
        kind, properties = _drawn(widget, region)
        placed.append(
            {"type": kind, "x": x, "y": y, "width": widget.width, "height": widget.height, "properties": properties}
        )
        x, row = x + widget.width, max(row, widget.height)
    return {"widgets": placed}


def _drawn(widget: GraphProps | AlarmsProps | Note, region: str) -> tuple[str, dict[str, Any]]:
    if isinstance(widget, GraphProps):
        return "metric", _graph(widget, region)
    if isinstance(widget, AlarmsProps):
        return "alarm", {"title": widget.title, "alarms": list(widget.arns)}
    return "text", {"markdown": widget.markdown}


def _graph(graph: GraphProps, region: str) -> dict[str, Any]:
    if len(graph.metrics) > MOST_METRICS:
        raise ValueError(f"{len(graph.metrics)} metrics in {graph.title!r}; show {MOST_METRICS} at most in one widget")
    found: dict[str, Any] = {
        "title": graph.title,
        "region": region,
        "view": "singleValue" if graph.number else "timeSeries",
        "period": graph.period_s,
        "stat": graph.statistic,
        "metrics": [_metric(metric) for metric in graph.metrics],
    }
    if graph.number:
        # The last value, rather than one over all the time that is looked at.
        return found | {"setPeriodToTimeRange": False, "sparkline": True}
    if graph.limits:
        found["annotations"] = {"horizontal": [{"label": label, "value": value} for label, value in graph.limits]}
    return found | {"yAxis": {"left": {"min": 0}}}


def _metric(metric: Metric) -> list[Any]:
    named = [part for pair in metric.dimensions.items() for part in pair]
    return [metric.namespace, metric.name, *named, {"label": metric.label}]
