"""Figure 12 of the paper: one photograph, one question, several answers; and one answer layer by layer.

    python -m scripts.experiments.figure12                                              # about 10 s on two CPU cores
    python -m scripts.experiments.figure12 --image my.jpg --question "what color is it?" --answer red --answer yellow

Part (a): the map moves with the answer. Part (b): the same answer explained at the last layer of every block;
early layers show edges, late ones the object. To expect: the shipped model's cup and cat of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.experiments.figures import TWO_CLASSES, figure_parser, run_figure

QUESTION, ANSWERS = "what is on the table?", ("cat", "cup", "plate")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw both parts into one picture."""
    parser = figure_parser(__doc__, "saywhy-out/figure12.png")
    parser.add_argument("--image", default=str(TWO_CLASSES), help="photograph")
    parser.add_argument("--question", default=QUESTION, help="question about it")
    parser.add_argument(
        "--answer", action="append", help=f"answer; repeatable (default: {', '.join(ANSWERS)})"
    )
    parser.add_argument(
        "--model", default=None, help="a checkpoint, or hf:PATH_OR_NAME (default: the shipped one)"
    )
    args = parser.parse_args(arguments)
    draw(args)
    print(args.out)


def draw(args: Any) -> None:
    """Part (a) in the first rows, part (b) below it."""
    from PIL import Image

    import vqa
    from common.draw import PAPER, Tile, draw_map, fitted, panel, save_picture
    from common.images import open_image

    answerer = vqa.load(args.model, device=args.device)
    image = open_image(args.image)
    shown, seen = fitted(image), answerer.see(image)
    answers = list(args.answer or ANSWERS)
    best = answerer.answer(seen, args.question, top=3)
    likely = "; ".join(f"{a.text} {a.probability:.0%}" for a in (best, *best.runners_up))
    columns = 1 + len(answers)
    tiles = [Tile(shown, "Photograph", likely)]
    found = answerer.explain(seen, args.question, answers, methods=("gradcam", "guided_gradcam"))
    for row, name in enumerate(found.names):
        score = f"score {float(found.scores[row, 0]):.2f}"
        tiles.append(Tile(draw_map("gradcam", shown, found.heatmaps[row, 0]), f"(a) {name}", score))
    tiles.append(Tile(Image.new("RGB", shown.size, PAPER), ""))
    for row, name in enumerate(found.names):
        tiles.append(
            Tile(draw_map("guided_gradcam", shown, found.guided_gradcam[row, 0]), f"Guided Grad-CAM: {name}")
        )
    for layer in block_ends(answerer):
        one = answerer.explain(seen, args.question, answers[0], layer=layer)
        tiles.append(Tile(draw_map("gradcam", shown, one.heatmaps[0, 0]), f"(b) {one.names[0]} at {layer}"))
    note = f"{answerer.name}; after figure 12 of Selvaraju et al."
    save_picture(
        panel(args.question, tiles, columns=columns, width=220, legends=["heat", "gradient"], note=note),
        args.out,
    )


def block_ends(answerer: Any) -> list[str]:
    """The last layer of each block of the trunk, first to last, and the layer that is classified."""
    trunk = getattr(answerer.network.module, "trunk", None)
    blocks = getattr(trunk, "blocks", None)
    names = [f"trunk.blocks.{i}" for i in range(len(blocks))] if blocks is not None else []
    return [*names, answerer.network.layer]


if __name__ == "__main__":
    run_figure(main)
