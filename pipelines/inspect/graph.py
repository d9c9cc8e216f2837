"""A chain of lineage as one picture: a column a kind of thing, sources on the left."""

import html
from collections.abc import Mapping
from typing import Any

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 190, 46, 60, 22
_COLORS = {
    "manifest": "#777",
    "utterances": "#3c8c4a",
    "recordings": "#3c8c4a",
    "conversations": "#2a8a9c",
    "audio": "#2a8a9c",
    "codes": "#4269d0",
    "packs": "#a463f2",
    "checkpoint": "#d9622b",
    "evaluation": "#c2374f",
}

_STYLE = (
    "body{font:15px system-ui;margin:2em}svg{max-width:100%;height:auto}"
    "th{text-align:left;padding-right:1em;vertical-align:top;font-weight:500}"
)


def flatten(chain: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], set[tuple[str, str]]]:
    """Return the nodes of a chain by id, and its edges from source to what was made of it.

    >>> leaf = {"kind": "codes", "id": "b", "from": []}
    >>> nodes, edges = flatten({"kind": "packs", "id": "a", "from": [leaf]})
    >>> sorted(nodes), edges
    (['a', 'b'], {('b', 'a')})
    """
    nodes: dict[str, dict[str, Any]] = {}
    edges: set[tuple[str, str]] = set()

    def walk(node: Mapping[str, Any]) -> None:
        nodes[str(node["id"])] = {key: value for key, value in node.items() if key not in ("from", "to")}
        for child in node.get("from", ()):
            edges.add((str(child["id"]), str(node["id"])))
            walk(child)
        for child in node.get("to", ()):
            edges.add((str(node["id"]), str(child["id"])))
            walk(child)

    walk(chain)
    return nodes, edges


def columns_of(nodes: Mapping[str, Any], edges: set[tuple[str, str]]) -> dict[str, int]:
    """Return each node's distance from the sources, by the longest path; sources stand just before their use.

    >>> columns_of({"a": 0, "b": 0, "c": 0}, {("b", "a"), ("c", "b"), ("c", "a")})
    {'a': 2, 'b': 1, 'c': 0}
    >>> columns_of({"a": 0, "b": 0, "c": 0, "late": 0}, {("b", "a"), ("c", "b"), ("late", "a")})["late"]
    1
    """
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    consumers: dict[str, list[str]] = {name: [] for name in nodes}
    for source, made in edges:
        sources[made].append(source)
        consumers[source].append(made)
    depth: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((of(source) for source in sources[name]), default=-1)
        return depth[name]

    placed: dict[str, int] = {}
    for name in sorted(nodes, key=of, reverse=True):
        placed[name] = min((placed[made] for made in consumers[name]), default=of(name) + 1) - 1
    return {name: placed[name] for name in nodes}


def _short(text: str, length: int = 22) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def svg(chain: Mapping[str, Any]) -> str:
    """Draw a chain as SVG, with the facts of each node as its tooltip."""
    nodes, edges = flatten(chain)
    column = columns_of(nodes, edges)
    rows: dict[int, int] = {}
    place: dict[str, tuple[int, int]] = {}
    for name in sorted(nodes, key=lambda one: (column[one], nodes[one]["kind"], one)):
        x, row = column[name], rows.get(column[name], 0)
        rows[x] = row + 1
        place[name] = (10 + x * (_WIDTH + _GAP_X), 10 + row * (_HEIGHT + _GAP_Y))
    width = 20 + (max(column.values()) + 1) * (_WIDTH + _GAP_X) - _GAP_X
    height = 20 + max(rows.values()) * (_HEIGHT + _GAP_Y) - _GAP_Y
    lines = []
    for source, made in sorted(edges):
        (x1, y1), (x2, y2) = place[source], place[made]
        x1, y1, y2 = x1 + _WIDTH, y1 + _HEIGHT // 2, y2 + _HEIGHT // 2
        middle = (x1 + x2) // 2
        lines.append(f"<path d='M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}' fill='none' stroke='#999'/>")
    boxes = []
    for name, (x, y) in place.items():
        node = nodes[name]
        kind = str(node["kind"])
        color = _COLORS.get(kind.split(maxsplit=1)[0], "#777")
        facts = html.escape("\n".join(f"{key}: {value}" for key, value in node.items()))
        marked = " stroke='#000' stroke-width='2'" if str(chain["id"]) == name else ""
        boxes.append(
            f"<g><title>{facts}</title><rect x='{x}' y='{y}' width='{_WIDTH}' height='{_HEIGHT}' rx='6' "
            f"fill='{color}'{marked}/><text x='{x + 8}' y='{y + 19}' fill='#fff' font-weight='600'>"
            f"{html.escape(_short(kind))}</text><text x='{x + 8}' y='{y + 36}' fill='#fff' font-family='monospace' "
            f"font-size='11'>{html.escape(name[:24])}</text></g>"
        )
    return (
        f"<svg viewBox='0 0 {width} {height}' width='{width}' height='{height}' font-family='system-ui' font-size='13' "
        f"role='img' aria-label='lineage'>{''.join(lines)}{''.join(boxes)}</svg>"
    )


def page(chain: Mapping[str, Any]) -> str:
    """Return one static page with the picture and every node's facts."""
    nodes, _ = flatten(chain)
    facts = "".join(
        f"<h3>{html.escape(str(node['kind']))} <code>{html.escape(name)}</code></h3><table>"
        + "".join(
            f"<tr><th>{html.escape(str(key))}</th><td>{html.escape(str(value))}</td></tr>"
            for key, value in node.items()
            if key not in ("kind", "id")
        )
        + "</table>"
        for name, node in nodes.items()
    )
    title = f"{chain['kind']} {str(chain['id'])[:12]}"
    return (
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>Lineage of {html.escape(title)}</h1>{svg(chain)}{facts}"
    )
