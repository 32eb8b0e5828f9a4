"""The report of a study: one page of HTML that reads without a network and prints."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path

from common.files import atomic_paths, write_json, write_text
from scripts.experiments.page import STYLE, html_table
from scripts.study.analyse import Analysis, Pair, csv_text, record, shown, shown_range, spread_shown, verdicts
from scripts.study.answers import tidy
from scripts.study.estimates import DRAWS, Estimate
from scripts.study.mixed import Mixed

_MORE = """
svg { max-width: 100%; height: auto; font: 14px system-ui, sans-serif } .caption { color: #62666f; font-size: .9rem }
@media screen and (max-width: 45rem) { table { display: block; overflow-x: auto }
  td, th { white-space: nowrap } }
"""
_SIMULATED = "These answers were written by `saywhy study rehearse`: nobody took part. The numbers say nothing."
_HOW = (
    "Means are over all answers that count. Intervals are of 95 %: people are drawn anew with replacement, and, apart"
    " from that, photographs, {draws} times each; the two variances are added, less that of single answers, which both"
    " hold (Cameron, Gelbach and Miller 2011), and Student's t has {freedom} degrees of freedom, one less than the"
    " smaller of the two samples. Planned comparisons are those of plan.json; their p values are"
    " corrected by Holm's method. The second opinion is a linear mixed-effects model of the same answers with random"
    " intercepts of people and photographs (statsmodels, restricted maximum likelihood). It takes a method to be as"
    " much better on each photograph and for each person, so that its errors can be smaller."
)
_WIDTH, _LEFT, _ROW = 760, 210, 34  # of the plot, in pixels


def write_report(analysis: Analysis, out: Path) -> list[Path]:
    """Write the page, and beside it the answers as CSV and the figures as JSON; returns their paths."""
    files = [out, out.with_suffix(".csv"), out.with_suffix(".json")]
    with atomic_paths(*files) as (report, table, figures):
        write_text(report, page(analysis))
        write_text(table, csv_text(tidy(analysis.study, analysis.results, analysis.judged)))
        write_json(figures, record(analysis))
    return files


def page(analysis: Analysis) -> str:
    """The whole page."""
    study = analysis.study
    title = f"{study.plan['title']} {study.plan['count']} photographs, {_people(analysis.people)}"
    banner = [_SIMULATED] if analysis.results.simulated else []
    banners = "".join(f'<p class="banner">{html.escape(each)}</p>' for each in [*banner, *analysis.remarks])
    parts = [
        _facts(analysis), _means(analysis), forest(analysis), _verdicts(analysis), _pairs(analysis),
        _left_out(analysis), _each_person(analysis), f"<h2>How it was analysed</h2><p>{html.escape(_how(analysis))}</p>"
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{_MORE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>{banners}{''.join(parts)}</body></html>\n"
    )


def forest(analysis: Analysis) -> str:
    """The methods' means with their intervals, a line for a guess, and what was published as hollow diamonds."""
    study, published = analysis.study, analysis.study.plan["published"]["values"]
    height = _ROW * len(analysis.means) + 10
    ticks = (-2, -1, 0, 1, 2) if study.rates else (0, 0.25, 0.5, 0.75, 1)
    parts = [_tick(value, height, study.rates) for value in ticks]
    guess = _x(study.guess, study.rates)
    parts.append(f'<path d="M{guess} 0V{height}" stroke="#62666f" stroke-dasharray="4 4"/>')
    for number, (name, found) in enumerate(analysis.means.items()):
        y = _ROW * number + _ROW // 2 + 5
        parts.append(_mark(study.plan["labels"][name], y, found, study.rates))
        parts += [_diamond(_x(published[name], study.rates), y)] if name in published else []
    known = " Diamonds: published." if published else ""
    told = html.escape(f"Means and 95 % intervals; dashed: {'no preference' if study.rates else 'a guess'}.{known}")
    picture = f'<svg viewBox="0 0 {_WIDTH} {height + 26}" width="{_WIDTH}" role="img" aria-label="{told}">'
    return f'<figure>{picture}{"".join(parts)}</svg><figcaption class="caption">{told}</figcaption></figure>'


def _x(value: float, rates: bool) -> float:
    """Where a value stands in the plot, in pixels; what is beyond the scale stands at its end."""
    share = (value + 2) / 4 if rates else value
    return round(_LEFT + min(max(share, 0.0), 1.0) * (_WIDTH - _LEFT - 30), 1)


def _tick(value: float, height: int, rates: bool) -> str:
    x, text = _x(value, rates), f"{value:+g}" if rates and value else f"{value:g}" if rates else f"{100 * value:g} %"
    line = f'<path d="M{x} 0V{height}" stroke="#e4e6ee"/>'
    return f'{line}<text x="{x}" y="{height + 18}" text-anchor="middle" fill="#62666f">{text}</text>'


def _diamond(x: float, y: int) -> str:
    return f'<path d="M{x} {y - 7}l7 7-7 7-7-7Z" fill="#fff" stroke="#b1480f"/>'


def _mark(name: str, y: int, found: Estimate, rates: bool) -> str:
    mean, low, high = (_x(value, rates) for value in (found.mean, found.low, found.high))
    return (
        f'<text x="{_LEFT - 12}" y="{y + 5}" text-anchor="end">{html.escape(name)}</text>'
        f'<path d="M{low} {y}H{high}" stroke="#1f4e9c" stroke-width="3"/>'
        f'<circle cx="{mean}" cy="{y}" r="6" fill="#1f4e9c"/>'
    )


def _facts(analysis: Analysis) -> str:
    plan = analysis.study.plan
    networks = [f"{n['name']}, layer {n['layer']}, weights {n['weights'][:12]}. {n['about']}" for n in plan["networks"]]
    facts = {
        "question": plan["question"],
        "photographs": f"{plan['count']} of {plan['photographs']}",
        "networks" if len(networks) > 1 else "network": "; ".join(networks),
        "study": f"{plan['id']}, plan {plan['sha256'][:12]}, seed {plan['seed']}",
        "built with": " ".join(f"{name} {version}" for name, version in plan["versions"].items()),
        **{f"note {n}": note for n, note in enumerate(plan["notes"], 1)},
    }
    return f"<dl>{''.join(f'<dt>{k}</dt><dd>{html.escape(v)}</dd>' for k, v in facts.items())}</dl>"


def _means(analysis: Analysis) -> str:
    plan, rates = analysis.study.plan, analysis.study.rates
    published, sign = plan["published"]["values"], "+" if rates else ""
    what = "mean rating" if rates else "share right"
    heads = ["", what, "95 % interval", f"p, against {shown(analysis.study.guess, rates)}", "answers", "published"]
    rows = [
        [
            plan["labels"][name], shown(e.mean, rates, sign), shown_range(e, rates, sign), _p(e.p), str(e.n),
            shown(published[name], rates, sign) if name in published else "-",
        ]
        for name, e in analysis.means.items()
    ]  # fmt: skip
    kept = len(heads) if published else len(heads) - 1
    scale = "; from -2, the weak network clearly, to +2, the strong one clearly" if rates else ""
    caption = f"{what.capitalize()} by method<span>; {_people(analysis.people)}{scale}</span>"
    about = f'<p class="note">Published: {html.escape(plan["published"]["about"])}</p>' if published else ""
    return html_table(caption, heads[:kept], [list(map(html.escape, row[:kept])) for row in rows]) + about


def _verdicts(analysis: Analysis) -> str:
    return "".join(f'<p class="verdict">{html.escape(sentence)}</p>' for sentence in verdicts(analysis))


def _pairs(analysis: Analysis) -> str:
    if not analysis.pairs:
        return ""
    heads = ["", "difference", "95 % interval", "p", "p, Holm", "mixed-effects model"]
    rows = [_pair(analysis, pair) for pair in analysis.pairs]
    kept = len(heads) if analysis.mixed else len(heads) - 1
    caption = "Differences<span>; * planned before the study</span>"
    mixed, rates = analysis.mixed, analysis.study.rates
    note = "" if mixed is None else _deviations(mixed, rates)
    return html_table(caption, heads[:kept], [list(map(html.escape, row[:kept])) for row in rows]) + note


def _deviations(mixed: Mixed, rates: bool) -> str:
    people, photographs, rest = (spread_shown(each, rates) for each in (mixed.people, mixed.photographs, mixed.rest))
    return (
        f'<p class="note">The mixed-effects model: people differ by {people}, photographs by {photographs}, single'
        f" answers by {rest} (standard deviations). ± is a standard error.</p>"
    )


def _pair(analysis: Analysis, pair: Pair) -> list[str]:
    labels, rates, found = analysis.study.plan["labels"], analysis.study.rates, pair.found
    name = f"{labels[pair.one]} less {labels[pair.other]}{' *' if pair.planned else ''}"
    corrected = "" if pair.p_holm is None else _p(pair.p_holm)
    mixed = "" if pair.mixed is None else f"{shown(pair.mixed[0], rates, '+')} ± {spread_shown(pair.mixed[1], rates)}"
    return [name, shown(found.mean, rates, "+"), shown_range(found, rates, "+"), _p(found.p), corrected, mixed]


def _left_out(analysis: Analysis) -> str:
    """Who and what does not count, and the rules for it."""
    rules, judged = analysis.study.plan["exclusions"], analysis.judged
    most = rules["most_checks_wrong"]
    wrong = f"more than {most:g} attention checks wrong" if most else "an attention check wrong"
    told = (
        f"Planned before the study: left out are people with {wrong}, with less than"
        f" {rules['least_share_answered']:.0%} of their trials answered, or with half of their answers within"
        f" {rules['least_median_seconds']:g} s; single answers within {rules['least_seconds']:g} s; and all but a"
        " person's first session."
    )
    sessions = len(analysis.results.by_session())
    reasons = Counter(judged.sessions.values())
    rows = [[html.escape(why), str(count)] for why, count in sorted(reasons.items())]
    rows += [["single answers that came too fast", str(judged.hasty)]] if judged.hasty else []
    table = html_table("", ["left out because", "n"], rows) if rows else ""
    return f"<h2>Who counts</h2><p>{len(judged.sessions)} of {sessions} sessions left out.</p>{table}<p>{told}</p>"


def _each_person(analysis: Analysis) -> str:
    """A line for each session, without anybody's name."""
    rates, rows = analysis.study.rates, []
    for number, (session, answers) in enumerate(analysis.results.by_session().items(), 1):
        trials = [answer for answer in answers if not answer.check]
        checks = [answer for answer in answers if answer.check]
        mean = sum(answer.score for answer in trials) / len(trials) if trials else None
        times = sorted(answer.milliseconds for answer in trials)
        rows.append([
            str(number), str(len(trials)), "-" if mean is None else shown(mean, rates, "+" if rates else ""),
            f"{sum(int(answer.score) for answer in checks)} of {len(checks)}",
            f"{times[len(times) // 2] / 1000:.1f} s" if times else "-",
            html.escape(analysis.judged.sessions.get(session, "")),
        ])  # fmt: skip
    heads = ["session", "answers", "mean", "checks right", "median time", "left out"]
    return f"<h2>Sessions</h2>{html_table('', heads, rows, (5,))}"


def _how(analysis: Analysis) -> str:
    photographs = {analysis.study.key[answer.trial]["photograph"] for answer in analysis.judged.counted}
    return _HOW.format(draws=DRAWS, freedom=min(analysis.people, len(photographs)) - 1)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _people(count: int) -> str:
    return f"{count} people"
