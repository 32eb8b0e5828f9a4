"""Figure 1 of the paper: one photograph, two classes, and what each method sees of them.

    python -m scripts.experiments.figure1                                   # about 10 s on two CPU cores
    python -m scripts.experiments.figure1 --image my.jpg --target boxer --target "tiger cat" --model vgg16

A row for each class: photograph, Guided Backprop, Grad-CAM, Guided Grad-CAM, occlusion. To expect: Grad-CAM
and Guided Grad-CAM on the named thing in each row; Guided Backprop much the same in both.
"""

from scripts.experiments.figures import classifier_parser, draw_classes, run_figure

METHODS = ("guided", "gradcam", "guided_gradcam", "occlusion")


def main() -> None:
    """Draw the figure."""
    args = classifier_parser(__doc__, "saywhy-out/figure1.png").parse_args()
    draw_classes(args, "One photograph, two classes", METHODS, "figure 1")


if __name__ == "__main__":
    run_figure(main)
