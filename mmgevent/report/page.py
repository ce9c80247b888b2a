"""The report of one job as one HTML file: no script, nothing from elsewhere, readable as text."""

from __future__ import annotations

import time
from typing import Any

from mmgevent.report.charts import lanes_chart, lanes_table, skew_chart, skew_table, table
from mmgevent.report.embedded import embed
from mmgevent.report.phases import phases_of
from mmgevent.report.words import duration, number, plural, safe

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--back:#fff;--panel:#f4f6f8;--line:#d0d7de;
--map:#2a78c2;--reduce:#2f8a4c;--bad:#c62f2f;--dup:#8a5cc4}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4ae;--back:#14171b;--panel:#1d2126;
--line:#363c44;--map:#5aa5ea;--reduce:#56b877;--bad:#f2706b;--dup:#b895ea}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:70rem;background:var(--back);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
p{margin:.4rem 0}a{color:var(--map)}.soft{color:var(--soft)}
.outcome{font-weight:600}.outcome.failed,.outcome.cancelled,.outcome.unknown{color:var(--bad)}
.outcome.done{color:var(--reduce)}
pre{white-space:pre-wrap;background:var(--panel);padding:.6rem;border-left:4px solid var(--bad);margin:.5rem 0}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem;margin:1rem 0}
dl div{background:var(--panel);padding:.5rem .7rem;border-radius:.3rem}
dt{color:var(--soft);font-size:.85rem}dd{margin:0;font-size:1.15rem}
.wide{overflow-x:auto;margin:.6rem 0}.wide:focus-visible{outline:2px solid var(--map)}
table{border-collapse:collapse;font-size:.9rem;min-width:50%}
caption{text-align:left;color:var(--soft);padding:.2rem 0}
th,td{padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;
overflow-wrap:normal}
td,th[scope=row]{max-width:24rem;overflow-wrap:break-word}
th[scope=row]{font-weight:500}.short{white-space:nowrap}.long{min-width:13rem}thead th{white-space:nowrap}
.chart{display:flex;gap:.6rem;margin-top:.6rem}
.names{list-style:none;margin:0;padding:0;max-width:40%;flex:none;font-size:.8rem}
.names li{height:20px;line-height:20px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;
display:flex;gap:.4em}
.names span{overflow:hidden;text-overflow:ellipsis}.names span+span{flex:none}
.plot{flex:1;min-width:0}svg{display:block;width:100%;background:var(--panel)}
.axis{display:flex;justify-content:space-between;font-size:.75rem;color:var(--soft)}
rect.map{fill:var(--map)}rect.reduce{fill:var(--reduce)}rect.bad{fill:var(--bad)}rect.dup{fill:var(--dup)}
rect.lane{fill:var(--line)}rect.mean{fill:var(--soft)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;margin:.4rem 0;font-size:.85rem}
.legend i{display:inline-block;width:.8rem;height:.8rem;margin-right:.4rem;vertical-align:-.1rem}
i.map{background:var(--map)}i.reduce{background:var(--reduce)}i.bad{background:var(--bad);height:1.1rem}
i.dup{background:var(--dup);height:.4rem;vertical-align:.1rem}
@media print{.wide{overflow:visible}}
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def make_page(data: dict[str, Any]) -> str:
    """Return the HTML of a report, from the data of a `Digest`."""
    name = safe(data["name"])
    sections = "".join(
        f'<section aria-labelledby="{id_}"><h2 id="{id_}">{title}</h2>{body}</section>'
        for id_, title, body in _sections(data)
        if body
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: report of mmgevent</title><style>{_STYLE}</style></head>\n"
        f"<body><header>{_header(data)}</header><main>{sections}</main>\n{embed(data)}</body></html>\n"
    )


def _header(data: dict[str, Any]) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(data["began"] + data["time_zone_s"]))
    outcome = str(data["outcome"])
    words = f"{outcome} after {duration(data['seconds'])}"
    error = f"<pre>{safe_lines(data['error'])}</pre>" if data["error"] else ""
    return (
        f'<h1>{safe(data["name"])}</h1><p><span class="outcome {safe(outcome)}">{safe(words)}</span> '
        f'<span class="soft">on {safe(data["runner"])}, begun {began}</span></p>{error}'
    )


def safe_lines(text: Any) -> str:
    """Return several lines for HTML."""
    return "\n".join(safe(line) for line in str(text).splitlines())


def _sections(data: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (id, title, HTML) of each section; one without HTML is left out."""
    work, seconds = data["work"], data["seconds"]
    lanes = lanes_chart(work, seconds) + _thinned(data) + lanes_table(work, seconds)
    return [
        ("totals", "Totals", _totals(data)),
        ("lanes", "Slots over time", lanes),
        ("phases", "Phases", _phases(data)),
        ("skew", "Size of reduce tasks", skew_chart(data["reduce"]) + skew_table(data["reduce"])),
        ("slowest", "Slowest items", _slowest(data)),
        ("largest", "Keys with the most values", _largest(data)),
        (
            "deaths",
            "Deaths",
            _happened(data["deaths"], "death", ["function", "key", "error", "task", "worker", "outcome"]),
        ),
        ("failed", "Items that failed", _happened(data["failed"], "failure", _ITEM)),
        ("skipped", "Items set aside", _happened(data["skipped"], "item", _ITEM)),
        ("resubmitted", "Submitted again", _happened(data["resubmitted"], "time", ["error"])),
        ("notices", "Notices", _happened(data["notices"], "notice", ["text"])),
        ("counters", "Counters", _pairs("Counters", "counter", data["counters"])),
        ("options", "Options", _pairs("Options of the job", "option", data["options"])),
        ("versions", "Versions", _pairs("Versions", "of", data["versions"])),
    ]


_ITEM = ["key", "error", "function", "batch", "worker"]


def _totals(data: dict[str, Any]) -> str:
    facts = [("time", duration(data["seconds"]))]
    facts += [(name, number(value)) for name, value in data["totals"].items()]
    spilled = data["stats"].get("spilled_bytes")
    if spilled:
        facts.append(("spilled bytes", number(spilled)))
    cells = "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in facts)
    return f"<dl>{cells}</dl>"


def _thinned(data: dict[str, Any]) -> str:
    """Return what the lanes do not show."""
    work, texts = data["work"], []
    if work["gap_s"]:
        texts.append(f"Tasks less than {duration(work['gap_s'])} apart are drawn as one bar.")
    if work["hidden_tasks"]:
        texts.append(f"{plural(work['hidden_tasks'], 'task')} of other slots have no lane.")
    if work["hidden_marks"]:
        texts.append(f"{plural(work['hidden_marks'], 'task')} more failed or ran twice and are not drawn.")
    if data["unseen_tasks"]:
        texts.append(
            f"The server could not report {plural(data['unseen_tasks'], 'task')}: too many ended at once."
        )
    return f"<p>{safe(' '.join(texts))}</p>" if texts else ""


def _phases(data: dict[str, Any]) -> str:
    rows = [[each.name, duration(each.start_s), duration(each.seconds)] for each in phases_of(data)]
    return table("When each phase was first seen", ["phase", "from", "for"], rows)


def _slowest(data: dict[str, Any]) -> str:
    rows = [
        [each["key"], duration(each["seconds"]), each["phase"], each.get("batch", ""), each["worker"]]
        for each in data["slowest"]
    ]
    return table("The slowest items and keys", ["key", "time", "phase", "batch", "worker"], rows)


def _largest(data: dict[str, Any]) -> str:
    rows = [[each["key"], number(each["values"]), each["worker"]] for each in data["largest_keys"]]
    return table("Values that reducefn got", ["key", "values", "worker"], rows)


def _happened(listed: dict[str, Any], noun: str, names: list[str]) -> str:
    if not listed["count"]:
        return ""
    rows = [
        [duration(max(0, entry["at"])), *(entry.get(name, "") for name in names)] for entry in listed["first"]
    ]
    first = f", the first {len(rows)} of them" if listed["count"] > len(rows) else ""
    return table(f"{plural(listed['count'], noun)}{first}", ["after", *names], rows)


def _pairs(caption: str, what: str, values: dict[str, Any]) -> str:
    rows = [[name, "none" if value is None else number(value)] for name, value in values.items()]
    return table(caption, [what, "value"], rows)
