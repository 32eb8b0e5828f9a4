"""Figure 12 of the paper: one photograph, one question, several answers; and one answer layer by layer.

    python -m scripts.experiments.figure12                                              # about 10 s on two CPU cores
    python -m scripts.experiments.figure12 --image my.jpg --question "what color is it?" --answer red --answer yellow

Part (a): the map moves with the answer. Part (b): the same answer explained at the last layer of every block;
early layers show edges, late ones the object. A model with co-attention (`--model runs/co`, a run of `saywhy train vqa
--model coattention`) shows besides where it looks itself: by the words, the phrases and the whole question, whatever
the answer, and which words it listens to. To expect, of the bundled meadow: 'cow' on the cow, 'grass' below and
around it, 'trees' above.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from PIL import Image

from common.draw import PAPER, Tile, draw_map, fitted, legends_of, panel
from common.images import open_image
from scripts.experiments.drawing import SAMPLES, figure_parser, save_figure
from scripts.experiments.lab import Lab
from scripts.experiments.report import Section
from scripts.experiments.run import run_program
from vqa.network import Attention

METHODS = ("gradcam", "guided_gradcam")
PHOTOGRAPH = SAMPLES / "cows.jpg"
QUESTION, ANSWERS = "what is in the picture?", ("cow", "grass", "trees")
CAPTION = (
    "(a) One photograph, one question, several answers, each with its own evidence; (b) one answer, explained"
    " after every block of the network"
)
NOTE = "The paper's (b) is of a ResNet with co-attention; ours is of the same small network as (a)."


def draw(answerer: Any, image: Image.Image, question: str, answers: Sequence[str]) -> Image.Image:
    """Part (a) in the first rows, part (b) below it."""
    shown, seen = fitted(image), answerer.encode(image)
    best = answerer.answer(seen, question, top=3)
    likely = "; ".join(f"{a.text} {a.probability:.0%}" for a in (best, *best.runners_up))
    found = answerer.explain(seen, question, list(answers), methods=METHODS)
    heat, guided = ([draw_map(method, shown, values) for values in found.maps[method][:, 0]] for method in METHODS)
    tiles = [Tile(shown, "Photograph", likely)]
    for picture, name, score in zip(heat, found.names, found.scores[:, 0].tolist(), strict=True):
        tiles.append(Tile(picture, f"(a) {name}", f"score {score:.2f}"))
    tiles.append(Tile(Image.new("RGB", shown.size, PAPER), ""))
    for picture, name in zip(guided, found.names, strict=True):
        tiles.append(Tile(picture, f"Guided Grad-CAM: {name}"))
    if hasattr(answerer.network, "attention"):
        looked = attention_tiles(answerer.attention(seen, question), shown)
        tiles += looked + [Tile(Image.new("RGB", shown.size, PAPER), "")] * (-len(looked) % (1 + len(answers)))
    for layer in block_ends(answerer):
        one = answerer.explain(seen, question, answers[0], layer=layer)
        tiles.append(Tile(draw_map("gradcam", shown, one.heatmaps[0, 0]), f"(b) {one.names[0]} at {layer}"))
    note = f"{answerer.name}; after figure 12 of Selvaraju et al."
    return panel(question, tiles, 1 + len(answers), legends_of(METHODS), 220, note)


def attention_tiles(found: Attention, shown: Image.Image) -> list[Tile]:
    """Where a model with attention looks at each level, and the words it listens to most there."""
    tiles = []
    for level, image, heard in zip(found.levels, found.image, found.of_words.tolist(), strict=True):
        most = sorted(zip(heard, found.words, strict=True), reverse=True)[:3]
        note = "hears " + ", ".join(f"{word} {share:.0%}" for share, word in most)
        tiles.append(Tile(draw_map("gradcam", shown, image), f"(b) its attention, {level} level", note))
    return tiles


def block_ends(answerer: Any) -> list[str]:
    """The last layer of each block of the trunk, first to last, and the layer that is classified."""
    network = getattr(getattr(answerer.network.module, "trunk", None), "network", None)
    blocks = getattr(network, "blocks", None)
    names = [f"trunk.network.blocks.{i}" for i in range(len(blocks))] if blocks is not None else []
    return [*names, answerer.network.layer]


def section(lab: Lab) -> Section:
    """Figure 12, visual question answering."""
    model, about = (
        lab.facade("VQA model"),
        {"mark": lab.mark("VQA model"), "asked": [PHOTOGRAPH.name, QUESTION, *ANSWERS]},
    )
    drawn = partial(draw, model, open_image(PHOTOGRAPH), QUESTION, ANSWERS)
    shown = lab.picture("figure12", CAPTION, drawn, **about)
    asked = partial(model.explain, PHOTOGRAPH, QUESTION, list(ANSWERS), methods=METHODS)
    words = lab.widget("figure12-words", "(a) to click: each answer paints its own map", asked, **about)
    return Section("Figure 12: questions and answers", pictures=[shown], notes=[NOTE], widgets=[words])


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw both parts into one picture."""
    import vqa

    parser = figure_parser(__doc__, "saywhy-out/figure12.png")
    parser.add_argument("--image", default=str(PHOTOGRAPH), help="photograph (default: a bundled one)")
    parser.add_argument("--question", default=QUESTION, help="question about it")
    answers = f"answer; repeatable (default: {', '.join(ANSWERS)})"
    parser.add_argument("--answer", action="append", help=answers)
    args = parser.parse_args(arguments)
    answerer = vqa.load(args.model, device=args.device)
    save_figure(draw(answerer, open_image(args.image), args.question, args.answer or ANSWERS), args.out)


if __name__ == "__main__":
    run_program(main)
