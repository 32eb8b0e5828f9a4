"""The analysis of a study: intervals that cover, exclusions as planned, odd results told, none lost."""

import builtins
import csv
import itertools
import json

import numpy as np
import pytest
from scipy import stats

from common.errors import UserError
from scripts.saywhy import main
from scripts.study.analyse import analyse, verdicts
from scripts.study.answers import Scores, judge, read_results, scores_of
from scripts.study.estimates import estimated, holm
from scripts.study.report import page
from scripts.study.simulate import World, methods_shown, power, simulated_scores, world_of
from tests.studies import METHODS, body_of, made_up, results_of, session_of

NAMES = ("one", "other")


@pytest.fixture
def study(tmp_path):
    return made_up(tmp_path / "study")


def write(study, lines: list[str], name: str = "answers.jsonl") -> None:
    (study.folder / "results" / name).write_text("\n".join(lines) + "\n")


def crossed(values: np.ndarray) -> Scores:
    """Scores of an array (P, N, M) of which everybody answers everything."""
    people, photographs, methods = np.indices(values.shape)
    return Scores(values.ravel(), methods.ravel(), people.ravel(), photographs.ravel(), NAMES)


def test_the_error_is_that_of_two_random_effects() -> None:
    """On a balanced table the two-way variance has a closed form: the mean squares of an analysis of variance."""
    rng = np.random.default_rng(1)
    P, N = 30, 40
    table = rng.normal(size=(P, 1)) + 0.7 * rng.normal(size=(1, N)) + rng.normal(size=(P, N))
    rows, columns = table.mean(1), table.mean(0)
    rest = table - rows[:, None] - columns + table.mean()
    squares = rest.var(ddof=0) * P * N / ((P - 1) * (N - 1))
    expected = rows.var(ddof=1) / P + columns.var(ddof=1) / N - squares / (P * N)
    found = estimated(crossed(np.stack([table, table + 1], 2)), draws=4000)
    one = found.mean(0)
    assert one.mean == pytest.approx(table.mean()) and one.error == pytest.approx(expected**0.5, rel=0.05)
    reach = stats.t.ppf(0.975, P - 1) * one.error
    assert (one.low, one.high) == pytest.approx((one.mean - reach, one.mean + reach))
    # Two methods that differ by exactly one, whoever answers about whatever.
    pair = found.difference(1, 0)
    assert pair.mean == pytest.approx(1) and pair.error == pytest.approx(0, abs=1e-6) and pair.p < 1e-6
    assert found.mean(0, against=one.mean).p == pytest.approx(1)


@pytest.mark.parametrize("rates", [False, True])
def test_of_200_studies_the_95_percent_intervals_hold_the_truth(study, rates) -> None:
    means = (0.3, 0.8) if rates else (0.55, 0.7)
    world, rng = World(means, rates), np.random.default_rng(5)
    shown = np.random.default_rng(0).integers(0, 2, (1000, 3000))
    truth = [world.answers(shown, rng)[shown == m].mean() for m in (0, 1)] if rates else means  # rounding moves a mean
    inside, wide = [], []
    for number in range(200):
        half = np.indices((24, 24)).sum(0) % 2  # each person sees half of the photographs by each method
        found = estimated(simulated_scores(half, world, NAMES, rng), 200, number)
        estimates = [found.mean(0), found.mean(1), found.difference(1, 0)]
        true = [*truth, truth[1] - truth[0]]
        inside.append([each.low <= value <= each.high for each, value in zip(estimates, true, strict=True)])
        wide.append(estimates[2].high - estimates[2].low)
    covered = np.mean(inside, 0)
    # 200 studies: 0.95 with a standard error of 0.015.
    assert (covered >= 0.91).all() and (covered <= 0.995).all(), covered
    assert not rates or np.mean(wide) < 1


def test_simulated_people_answer_as_they_are_told_to(study) -> None:
    rng = np.random.default_rng(0)
    shown = methods_shown(study, 40, rng)
    assert shown.shape == (40, 8) and (shown.sum(1) == 4).all() and (shown.sum(0) == 20).all()
    wide = np.tile(shown, (50, 20))
    answers = World((0.55, 0.75)).answers(wide, rng)
    assert [answers[wide == m].mean() for m in (0, 1)] == pytest.approx([0.55, 0.75], abs=0.05)
    assert world_of(study, 0.2).means == pytest.approx((0.55, 0.75))


def test_more_people_find_a_difference_more_often(study) -> None:
    few, many = power(study, (8, 64), 0.2, 40)
    assert few.share < many.share and few.reach > 1.8 * many.reach
    (none,) = power(study, (32,), 0.0, 60)
    assert none.share <= 0.1


def test_holms_p_values_are_those_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for count in (1, 2, 6):
        values = rng.random(count) ** 3
        assert holm(values) == pytest.approx(multitest.multipletests(values, method="holm")[1])


def test_the_mixed_model_agrees_on_a_balanced_table() -> None:
    pytest.importorskip("statsmodels", reason="pip install statsmodels: the mixed-effects model")
    from scripts.study.mixed import mixed_model

    rng = np.random.default_rng(2)
    P, N = 25, 30
    table = 0.8 * rng.normal(size=(P, 1, 1)) + 0.5 * rng.normal(size=(1, N, 1)) + rng.normal(size=(P, N, 2))
    table[..., 1] += 0.4
    found = mixed_model(crossed(table))
    difference, error = found.difference(1, 0)
    assert found.means == pytest.approx(table.mean((0, 1))) and difference == pytest.approx(np.diff(found.means)[0])
    assert error == pytest.approx(found.rest * (2 / (P * N)) ** 0.5, rel=1e-3)
    assert (found.people, found.photographs, found.rest) == pytest.approx((0.8, 0.5, 1.0), rel=0.35)


def test_exclusions_are_those_of_the_plan(study) -> None:
    slow = session_of(study, 0)
    sessions = {
        "good": slow,
        "also": session_of(study, 1, response=0),
        "inattentive": [*slow[:-1], {**slow[-1], "response": (slow[-1]["response"] + 1) % 4}],
        "gone": slow[:3],
        "hasty": session_of(study, 2, ms=300),
        "once": [{**answer, "ms": 100 if answer["number"] == 2 else 2000} for answer in slow],
    }
    write(study, results_of(study, sessions))
    judged = judge(study, read_results(study))
    assert judged.sessions == {
        "inattentive": "attention checks failed: 1",
        "gone": "answered 38% of the trials",
        "hasty": "half of the answers within 0.30 s",
    }
    assert {answer.session for answer in judged.counted} == {"good", "also", "once"}
    assert judged.hasty == 1 and len(judged.counted) == 8 + 8 + 7
    scores = scores_of(study, judged.counted)
    one = scores.values[scores.people == 2]  # 'person once' is the last by name
    assert one.mean() == 1 and len(one) == 7 and set(scores.values) == {0, 1}


def test_ratings_count_for_the_strong_network_on_either_side(tmp_path) -> None:
    study = made_up(tmp_path, "trust")
    strong = [
        {**a, "response": 4 if study.key[a["trial"]].get("strong") == "B" else 0}
        if "strong" in study.key[a["trial"]] else a for a in session_of(study)
    ]  # fmt: skip
    write(study, results_of(study, {"one": strong, "two": strong, "three": session_of(study, 1, response=4)}))
    analysis = analyse(study, draws=200)
    values = scores_of(study, analysis.judged.counted)
    assert values.values[values.people != 1].tolist() == [2.0] * 16  # 'person three' always said B
    assert sorted(values.values[values.people == 1].tolist()) == [-2.0] * 4 + [2.0] * 4
    text = page(analysis)
    assert "+1.27" in text and "from -2, the weak network clearly, to +2" in text


def test_whatever_is_odd_is_told_and_left_out_alone(study, tmp_path, capsys) -> None:
    other = made_up(tmp_path / "other", "trust")
    lines = results_of(study, {"one": session_of(study), "two": session_of(study, 1)})
    again = results_of(study, {"three": session_of(study, 2)}, participant="person one")
    changed = json.dumps({**json.loads(lines[0]), "response": 1 - json.loads(lines[0])["response"]})
    begun = json.dumps(body_of(study, "four", begin=True))
    broken = ['{"study": "', "\x00\x00", "[]", "null", "17", "[" * 5000]
    strange = [json.dumps({**json.loads(lines[1]), **each}) for each in ({"trial": "x"}, {"ms": -1}, {"response": 1e9})]
    mixed = results_of(other, {"five": session_of(other)})
    write(study, [*lines, *lines[:3], changed, *again, begun, *broken, *strange, *mixed])
    write(study, [lines[4]], "downloaded.jsonl")
    before = (study.folder / "results" / "answers.jsonl").read_bytes()
    out = tmp_path / "report.html"
    assert main(["study", "analyse", str(study.folder), "--out", str(out)]) == 0
    told = capsys.readouterr()
    for line in (
        "6 broken lines of answers.jsonl left out",
        f"10 answers of answers.jsonl are to another study ({other.id}), left out",
        "4 answers sent twice, counted once",
        "1 second answers to the same question, the first of each counted",
        "3 lines that are no answers to this study's trials left out",
        "'person one' took part 2 times; the first session counts",
    ):
        assert f"saywhy: {line}\n" in told.err
        assert line.replace("'", "&#x27;") in out.read_text()
    assert "2 people, 16 answers" in told.out
    assert (study.folder / "results" / "answers.jsonl").read_bytes() == before
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert len(rows) == 30 and sum(row["left_out"] == "took part before" for row in rows) == 10
    assert {row["method"] for row in rows if row["check"] == "0"} == set(METHODS)


def test_results_without_an_answer_to_the_study_are_one_line(study, tmp_path, capsys) -> None:
    other = made_up(tmp_path / "other", "trust")
    for lines, said in (
        ([], "no answer to this study"),
        (results_of(other, {"one": session_of(other)}), "10 answers of answers.jsonl are to another study"),
        (results_of(study, {"one": session_of(study)}), "1 people count"),
        (
            results_of(study, {"one": session_of(study, ms=100), "two": session_of(study)[:2]}),
            "half of the answers within",
        ),
    ):
        write(study, lines)
        assert main(["study", "analyse", str(study.folder)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (study.folder / "report.html").exists()
    assert main(["study", "analyse", str(study.folder), "--results", str(tmp_path / "absent")]) == 2
    assert main(["study", "analyse", str(study.folder), "--out", "report.pdf"]) == 2


def test_a_rehearsal_is_analysed_and_says_that_nobody_took_part(study, capsys) -> None:
    folder = study.folder / "rehearsal"
    assert main(["study", "rehearse", str(study.folder), "--people", "40", "--difference", "0.35"]) == 0
    out = folder / "report.html"
    assert main(["study", "analyse", str(study.folder), "--results", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "40 people, 320 answers" in said and "Guided Grad-CAM is ahead of Guided Backprop (+" in said
    text, record = out.read_text(), json.loads(out.with_suffix(".json").read_text())
    assert "nobody took part" in text and record["simulated"] and not record["plan_changed"]
    assert "61.2 %" in text and "44.4 %" in text and "<svg" in text and "http" not in text
    guided = record["methods"]["guided_gradcam"]
    rows = [row for row in csv.DictReader(out.with_suffix(".csv").open()) if row["method"] == "guided_gradcam"]
    assert guided["mean"] == pytest.approx(np.mean([float(row["score"]) for row in rows])) and guided["n"] == 160
    (pair,) = record["pairs"]
    assert pair["planned"] and pair["p_holm"] == pair["found"]["p"]
    assert "simulated-1" not in text  # no names on a page that is passed on


def test_without_statsmodels_the_rest_still_works(study, monkeypatch, capsys) -> None:
    real = builtins.__import__

    def missing(name, *args, **more):
        if name.startswith("statsmodels"):
            raise ImportError(name)
        return real(name, *args, **more)

    write(study, results_of(study, {f"s{n}": session_of(study, n % 4) for n in range(4)}))
    monkeypatch.setattr(builtins, "__import__", missing)
    assert main(["study", "analyse", str(study.folder)]) == 0
    error = capsys.readouterr().err
    assert "pip install 'saywhy[study]'" in error and error.count("\n") == 1
    text = (study.folder / "report.html").read_text()
    assert "mixed-effects model</th>" not in text and "100.0 %" in text


def test_a_plan_that_was_changed_is_told(study, capsys) -> None:
    plan = json.loads((study.folder / "plan.json").read_text())
    plan["exclusions"]["least_share_answered"] = 0.1
    (study.folder / "plan.json").write_text(json.dumps(plan))
    write(study, results_of(study, {f"s{n}": session_of(study, n) for n in range(3)}))
    assert main(["study", "analyse", str(study.folder), "--quiet"]) == 0
    assert "not as it was when the study was built" in capsys.readouterr().err
    assert "less than 10% of their trials" in (study.folder / "report.html").read_text()


def test_what_people_write_stays_text(study) -> None:
    names = ("=1+1", "<script>alert(1)</script>", 'a,b\n"c"')
    lines = [results_of(study, {name: session_of(study, n)}, participant=name) for n, name in enumerate(names)]
    write(study, list(itertools.chain(*lines)))
    main(["study", "analyse", str(study.folder), "--quiet"])
    assert "<script>" not in (study.folder / "report.html").read_text()
    people = {row["participant"] for row in csv.DictReader((study.folder / "report.csv").open(newline=""))}
    assert people == {"'=1+1", *names[1:]}


def test_no_difference_is_never_called_one(study) -> None:
    write(study, results_of(study, {f"s{n}": session_of(study, n % 4, response=n % 2) for n in range(12)}))
    (sentence,) = verdicts(analyse(study, draws=300))
    assert sentence.startswith("No difference found between Guided Grad-CAM and Guided Backprop (")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("power", "--people", "a"), "whole numbers"),
        (("power", "--people", "1"), "from 2 to 10000"),
        (("power", "--people", "10,1000000000"), "from 2 to 10000"),
        (("power", "--difference", "0.9"), "give 0 to 0.4"),
        (("rehearse", "--difference", "-1"), "give 0 to"),
    ],
)
def test_wrong_arguments_of_a_simulation_are_one_line(study, capsys, more, said) -> None:
    step, *rest = more
    assert main(["study", step, str(study.folder), *rest]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_one_method_has_no_difference_to_simulate(tmp_path) -> None:
    study = made_up(tmp_path, methods=("gradcam",))
    write(study, results_of(study, {f"s{n}": session_of(study, n % 2) for n in range(4)}))
    analysis = analyse(study, draws=100)
    assert not analysis.pairs and not verdicts(analysis) and "Differences" not in page(analysis)
    with pytest.raises(UserError, match="that counts is about"):
        scores_of(study, [])
    assert main(["study", "power", str(tmp_path)]) == 2
