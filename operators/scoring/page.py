"""One self-contained HTML page: the figures, and the worst sessions with their words coloured."""

from collections.abc import Mapping
from html import escape

from operators.scoring.result import AlignedSession, AlignedWord, Scores
from operators.scoring.table import COLUMNS, SLICED, meaning, rows, slice_rows

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd }
.sub { background: #ffe08a } .ins { background: #bfe3ff } .del { background: #ffc9c9; text-decoration: line-through }
.who { color: #666; font-size: 85% } p.turn { margin: .2em 0 }
"""
_LEGEND = (
    '<p><span class="sub">heard<sub>said</sub></span> replaced, <span class="del">said</span> missed, '
    '<span class="ins">heard</span> added</p>'
)


def page(scores: Scores, sounds: Mapping[str, str] | None = None) -> str:
    """Return the page.

    Args:
        scores: what it shows.
        sounds: a sound file for each of the worst sessions, as a path from the page, or in brackets why there is none.
    """
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Scores</title>',
        f"<style>{_STYLE}</style>",
        f"<h1>Scores of {scores.num_sessions} sessions</h1>",
        f"<p>{escape(meaning(scores.conditions, scores.resampled))}</p>",
        _table(COLUMNS, rows(scores.figures)),
    ]
    parts += [f"<p>{escape(name)} left out: {escape(reason)}</p>" for name, reason in scores.left_out.items()]
    if scores.slices:
        parts += ["<h2>Slices</h2>", _table(*slice_rows(scores.slices, SLICED))]
    if scores.worst:
        parts += [
            f"<h2>The worst {len(scores.worst)}</h2>",
            _LEGEND,
            *(_session(one, (sounds or {}).get(one.session_id)) for one in scores.worst),
        ]
    return "\n".join([*parts, "</html>", ""])


def _table(header: tuple[str, ...] | list[str], body: list[list[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in body]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _session(session: AlignedSession, sound: str | None) -> str:
    """Return a session's sound and words, a paragraph for each stretch of one pair of speakers."""
    found = [f"<h3>{escape(session.session_id)}: {session.errors} errors, {session.reference_words} words</h3>"]
    if sound is not None and sound.startswith("("):
        found.append(f"<p>{escape(sound)}</p>")
    elif sound is not None:
        found.append(f'<audio controls preload="none" src="{escape(sound)}"></audio>')
    last: tuple[str | None, ...] | None = None
    line: list[str] = []
    for word in session.words:
        who = (word.speaker, word.hypothesis_speaker)
        if last is not None and not _same(last, who):
            found.append(_turn(last, line))
            line = []
        last = who if not line else tuple(one or other for one, other in zip(last or who, who, strict=True))
        line.append(_word(word))
    if last is not None:
        found.append(_turn(last, line))
    return "\n".join(found)


def _same(one: tuple[str | None, ...], other: tuple[str | None, ...]) -> bool:
    """Return whether a word goes on with the stretch: words that one side lacks have one speaker only."""
    return any(a is not None and a == b for a, b in zip(one, other, strict=True))


def _turn(who: tuple[str | None, ...], line: list[str]) -> str:
    names = f"{who[0] or 'nobody'} as {who[1] or 'nobody'}"
    return f'<p class="turn"><span class="who">{escape(names)}:</span> {" ".join(line)}</p>'


def _word(word: AlignedWord) -> str:
    if word.kind == "equal":
        return escape(word.reference or "")
    title = "" if word.start_s is None else f' title="{word.start_s:.2f} s"'
    text = escape((word.reference if word.kind == "del" else word.hypothesis) or "")
    said = f"<sub>{escape(word.reference or '')}</sub>" if word.kind == "sub" else ""
    return f'<span class="{word.kind}"{title}>{text}{said}</span>'
