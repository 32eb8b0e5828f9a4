"""Figure 3 of the paper: counterfactuals, the regions that would make the network change its mind.

    python -m scripts.experiments.figure3                                   # about 10 s on two CPU cores
    python -m scripts.experiments.figure3 --image my.jpg --target boxer --target "tiger cat"

For each class Grad-CAM and the counterfactual, the same with the gradient negated. To expect: what speaks
against one class is where the other one is.
"""

from scripts.experiments.figures import classifier_parser, draw_classes, run_figure

METHODS = ("gradcam", "counterfactual")


def main() -> None:
    """Draw the figure."""
    args = classifier_parser(__doc__, "saywhy-out/figure3.png").parse_args()
    draw_classes(args, "What speaks for a class, and what against it", METHODS, "figure 3")


if __name__ == "__main__":
    run_figure(main)
