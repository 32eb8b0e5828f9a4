"""The paper's experiments, in the order of the report: name -> function(lab) -> Section."""

from collections.abc import Callable

from scripts.experiments import (
    ablations,
    adversarial,
    answers,
    bias,
    captions,
    failures,
    faithfulness,
    grid,
    localisation,
    neurons,
    pictures,
    pointing,
    sanity,
    seeds,
)
from scripts.experiments.lab import Lab
from scripts.experiments.report import Section

EXPERIMENTS: dict[str, Callable[[Lab], Section]] = {
    "fig1": pictures.figure1,
    "fig3": pictures.figure3,
    "table1": localisation.table1,
    "fig4": seeds.figure4,
    "pointing": pointing.pointing_game,
    "discrimination": grid.discrimination,
    "faithfulness": faithfulness.faithfulness,
    "insertion": faithfulness.insertion,
    "sanity": sanity.sanity,
    "fig6": failures.figure6,
    "fig7": adversarial.figure7,
    "fig8": bias.figure8,
    "fig9": neurons.figure9,
    "fig10": captions.figure10,
    "fig11": captions.figure11,
    "fig12": answers.figure12,
    "vqa": answers.vqa_table,
    "appendix_b": ablations.appendix_b,
}
