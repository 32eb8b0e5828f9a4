"""saywhy classify: which class a photograph shows, and why."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts import console as cli

UNITS = {"logit": "logit", "log_probability": "log p"}


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its arguments."""
    parser = subparsers.add_parser(
        "classify",
        help="name the class of a photograph and explain it",
        description="Say which class each photograph shows, and why: of the prediction, or of classes you name.",
    )
    cli.add_image_arguments(parser)
    cli.add_classifier_arguments(parser, "network; see 'saywhy models' (default: %(default)s)")
    parser.add_argument(
        "--target", action="append", metavar="CLASS", dest="targets",
        help="explain this class, by any of its names, WordNet id or index; repeatable (default: the prediction)",
    )  # fmt: skip
    cli.add_contrast_argument(parser, "each target")
    cli.add_method_arguments(parser)
    parser.add_argument(
        "--score", choices=("logit", "log-probability"), default="logit",
        help="what of a class is explained; a log-probability depends on the other classes too (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--weights", metavar="FILE", help="weights of your own for the named network")
    parser.add_argument("--labels", metavar="FILE", help="class names of your own: one a line, or JSON")
    parser.add_argument(
        "--crop", type=cli.share, metavar="SHARE",
        help="look at the centre alone, as for ImageNet accuracy (0.875 there), instead of the whole image",
    )  # fmt: skip
    parser.add_argument("--top", type=int, default=5, metavar="N", help="predictions to list (default: %(default)s)")
    parser.add_argument(
        "--fast", action="store_true", help="fold batch normalisation, reorder memory: quicker on a CPU, same maps"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain each image; returns the exit status."""
    import classification
    from common.images import image_files, open_image
    from common.panels import score_notes

    methods = cli.methods_of(args)
    cli.device_of(args)
    folder = cli.output_folder(args)
    classifier = classification.load(
        args.model,
        labels=args.labels,
        layer=args.layer,
        weights=args.weights,
        random_weights=args.random_weights,
        fast=args.fast,
        device=args.device,
    )
    if args.crop is not None:
        cropped = classifier.preprocessing.with_crop(args.crop)
        classifier = replace(classifier, network=replace(classifier.network, preprocessing=cropped))
    targets = None if args.targets is None else classifier.targets(args.targets)
    contrast = classifier.targets(args.contrast) if args.contrast else None
    options, score = cli.occlusion_options(args), args.score.replace("-", "_")

    def explain_one(file: Path) -> cli.Outcome:
        image = open_image(file)
        encoded = classifier.encode(image)
        predictions = classifier.predict(encoded, top=args.top)
        chosen = targets if targets is not None else [classifier.target(predictions[0].index)]
        explanation = classifier.explain(encoded, chosen, contrast, methods, score=score, occlusion_options=options)
        listed = [vars(prediction) for prediction in predictions]
        record = {
            "task": "classify", "image": str(file), "model": classifier.network.name,
            "prediction": listed[0], "predictions": listed, **cli.explained(explanation),
        }  # fmt: skip
        line = f"{file}: {predictions[0].label} ({predictions[0].probability:.1%})"
        shown = replace(explanation, names=_short(explanation))
        title = f"{file.name}: {predictions[0].label.split(',')[0]}"
        page = cli.page_of(args, shown, title, score_notes(shown, "logit"))
        likely = [(prediction.label, prediction.probability) for prediction in predictions]
        picture = draw(image, classifier.network.name, classifier.preprocessing, likely, explanation)
        return cli.Outcome(record, line, explanation, picture, page)

    return cli.run_each([(file,) for file in image_files(args.images)], explain_one, args, folder)


def draw(image: Any, model: str, preprocessing: Any, predictions: Sequence[tuple[str, float]], explanation: Any) -> Any:
    """The panel of one image: the photograph with its predictions (label, probability), then a picture of each
    target and method.
    """
    from common.draw import Tile, fitted, legends_of, panel
    from common.panels import explanation_tiles

    seen = image.crop(tuple(round(side) for side in preprocessing.region(*image.size)))
    likely = [(label.split(",")[0], probability) for label, probability in predictions]
    photograph = Tile(fitted(seen), "Photograph", "; ".join(f"{label} {share:.0%}" for label, share in likely[:3]))
    unit = UNITS[explanation.provenance.get("score", "logit")]
    tiles, columns = explanation_tiles(photograph, explanation, unit, _short(explanation))
    return panel(
        f"{likely[0][0]}: {likely[0][1]:.0%}",
        tiles,
        columns=columns,
        legends=legends_of(list(explanation.maps)),
        note=f"{model}, explained at layer {explanation.provenance['layer']}",
    )


def _short(explanation: Any) -> tuple[str, ...]:
    """The names of the targets with at most two of the synonyms of each."""
    return tuple(", ".join(name.split(", ")[:2]) for name in explanation.names)
