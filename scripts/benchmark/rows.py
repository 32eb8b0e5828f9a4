"""The rows of the benchmark: what is done, against which reference pass, and who does it how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import captioning
import vqa
from common.explainable import HookedModel
from common.gradcam import explain, gradcam
from common.images import open_image
from common.methods.names import label
from common.methods.occlusion import OcclusionOptions, occlusion
from common.networks.loading import load_network
from common.targets import as_targets

OURS = "saywhy"
SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples"
MEMORY_BATCH = 16
# CAM variants, and what pytorch-grad-cam calls those that it has.
CAMS = ("hirescam", "layercam", "xgradcam", "gradcam_plus_plus", "ablation_cam", "integrated_gradients")
THEIRS = {
    "hirescam": "HiResCAM", "layercam": "LayerCAM", "xgradcam": "XGradCAM", "gradcam_plus_plus": "GradCAMPlusPlus",
    "ablation_cam": "AblationCAM",
}  # fmt: skip


@dataclass
class Work:
    """One row: what is done, the figure to reach, the reference pass, and who does it how.

    `same(ours, theirs)` says whether two results agree; a figure whose result is another is marked wrong.
    """

    title: str
    reach: str
    reference: Callable[[], Any]
    ways: dict[str, Callable[[], Any]]
    slow: bool = False
    same: Callable[[Any, Any], bool] | None = None


class Bench:
    """The network, its images and the peers that are installed; what rows are made of."""

    def __init__(self, peers: list[str]) -> None:
        network = load_network("efficientnet_lite0").located()
        self.network = network.module.eval()
        self.layer = network.layer or ""
        self.module = self.network.get_submodule(self.layer)
        self.peers = peers
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(MEMORY_BATCH, 3, *network.preprocessing.size, generator=generator) * 2 - 1

    def forward(self, batch: int = 1) -> Callable[[], Any]:
        def run() -> Any:
            with torch.no_grad():
                return self.network(self.images[:batch])

        return run

    def installed(self, ways: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
        return {name: way for name, way in ways.items() if name == OURS or name in self.peers}


def gradcam_ways(bench: Bench, batch: int, classes: list[int]) -> dict[str, Callable[[], Any]]:
    """Grad-CAM of some classes of `batch` images, by everybody."""
    network, images, layer = bench.network, bench.images[:batch], bench.layer

    def grad_cam() -> Any:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with GradCAM(network, [bench.module]) as cam:
            return [cam(images, [ClassifierOutputTarget(index)] * batch) for index in classes]

    def captum() -> Any:
        from captum.attr import LayerGradCam

        cam = LayerGradCam(network, bench.module)
        return [cam.attribute(images, target=index, relu_attributions=True) for index in classes]

    def torchcam() -> Any:
        from torchcam.methods import GradCAM

        with GradCAM(network, layer) as cam:
            scores = network(images.requires_grad_(False))
            return [cam(index, scores, retain_graph=index != classes[-1]) for index in classes]

    ours = partial(gradcam, network, images, classes, layer=layer)
    return bench.installed({OURS: ours, "grad-cam": grad_cam, "captum": captum, "torchcam": torchcam})


def gradcam_row(
    bench: Bench, what: str, reach: str, batch: int = 1, classes: Sequence[int] = (281,), slow: bool = False
) -> Work:
    ways = gradcam_ways(bench, batch, list(classes))
    return Work(f"Grad-CAM, {what}", reach, bench.forward(batch), ways, slow)


def one_target_batch(bench: Bench) -> Work:
    return Work("Grad-CAM, one target, batch 16", "1.05", bench.forward(16), gradcam_ways(bench, 16, [281]), slow=True)


def guided_backprop(bench: Bench) -> Work:
    """Against a plain forward and backward pass to the image, parameters treated alike in both."""
    network, image = bench.network, bench.images[:1]

    def plain() -> Any:
        leaf = image.clone().requires_grad_()
        return torch.autograd.grad(network(leaf)[:, 281].sum(), leaf)[0]

    def ours() -> Any:
        return explain(HookedModel(network, bench.layer), image, [281], methods=("guided",)).guided[0]

    def captum() -> Any:
        from captum.attr import GuidedBackprop

        return GuidedBackprop(network).attribute(image.clone().requires_grad_(), target=281)

    def grad_cam() -> Any:
        from pytorch_grad_cam import GuidedBackpropReLUModel

        found = GuidedBackpropReLUModel(network, "cpu")(image.clone(), target_category=281)
        return torch.from_numpy(found).permute(2, 0, 1)[None]

    def same(one: Any, other: Any) -> bool:
        return bool(torch.allclose(one, other, rtol=1e-2, atol=1e-3 * float(one.abs().max())))

    ways = bench.installed({OURS: ours, "captum": captum, "grad-cam": grad_cam})
    return Work("Guided Backprop, of forward + backward", "1.05", plain, ways, same=same)


def occlusion_windows(bench: Bench) -> Work:
    network, image = bench.network, bench.images[:1]

    def ours() -> Any:
        options = OcclusionOptions(window=32, stride=16)
        return occlusion(HookedModel(network, bench.layer), image, as_targets([281]), None, options)[0]

    def captum() -> Any:
        from captum.attr import Occlusion

        sizes = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16)}
        with torch.no_grad():
            return Occlusion(network).attribute(image, target=281, baselines=0, perturbations_per_eval=4, **sizes)

    ways = bench.installed({OURS: ours, "captum": captum})
    return Work("occlusion, 32x32 window, stride 16 (169 windows)", "75", bench.forward(), ways, slow=True)


def caption_words(bench: Bench) -> Work:
    captioner = captioning.load()
    seen = captioner.encode(bench.images[:1])  # what decoding has done already
    text = "a man in a red shirt is standing on a wooden bench"
    title = "caption and each of its 12 words, beyond decoding"
    return Work(
        title, "1.5", partial(captioner.encode, bench.images[:1]), {OURS: partial(captioner.explain, seen, text)}
    )


def vqa_answers(bench: Bench) -> Work:
    """The best five answers of a question, why each, and what each word did, of one plain forward pass."""
    answerer = vqa.load()
    model, image = answerer.network.module, bench.images[:1]
    question = "what color is the hat on the left?"
    tokens = torch.tensor([answerer.read(question).tokens])

    def plain() -> Any:
        with torch.no_grad():
            return model(image, tokens)

    def ours() -> Any:
        encoded, read = answerer.encode(image), answerer.read(question)
        (answer,) = answerer.answer(encoded, read, top=5)
        return answerer.explain(encoded, read, [str(each) for each in (answer, *answer.runners_up)])

    return Work("answer, maps of 5 answers, question attribution", "1.3", plain, {OURS: ours})


def variant(bench: Bench, name: str) -> Work:
    """One CAM variant of one image, against Grad-CAM of it."""
    model, image = HookedModel(bench.network, bench.layer), bench.images[:1]

    def of(method: str) -> Callable[[], Any]:
        return lambda: explain(model, image, [281], methods=method)

    def grad_cam() -> Any:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with getattr(pytorch_grad_cam, THEIRS[name])(bench.network, [bench.module]) as cam:
            return cam(image, [ClassifierOutputTarget(281)])

    ways = bench.installed({OURS: of(name), **({"grad-cam": grad_cam} if name in THEIRS else {})})
    slow = name in ("ablation_cam", "integrated_gradients")
    return Work(f"{label(name)}, over Grad-CAM", "", of("gradcam"), ways, slow=slow)


_BATCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "caption": ("1.11", {"model": None, "beam": None, "phrases": [], "score": "logit"}),
    "vqa": ("1.05", {"model": None, "top": 5}),
    "classify": ("1.05", {
        "model": "efficientnet_lite0", "targets": ["top1"], "weights": None, "labels": None, "crop": None,
        "top": 5, "fast": False, "random_weights": False,
    }),
}  # fmt: skip


def batch(bench: Bench, task: str) -> Work:
    """`saywhy batch` of a task with its maps, against its predictions alone; decoding and writing are in neither."""
    from scripts.batch import tasks
    from scripts.batch.records import Item

    reach, asked = _BATCHES[task]
    bare, full = (tasks.load(task, {**asked, "layer": None, "methods": each}, {}) for each in ([], ["gradcam"]))
    size = tasks.batch_size(task, "cpu")
    photographs = [Path(path).read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))[:size]]
    samples = [full.prepare(data, Item(str(n), bytes, "what is this?")) for n, data in enumerate(photographs)]
    title = f"batch {task}, {len(samples)} photographs with maps, over predictions alone"
    return Work(title, reach, partial(bare.explain, samples), {OURS: partial(full.explain, samples)}, slow=True)


def batch_bare(bench: Bench) -> Work:
    """A shard of captions alone, from photographs' files to the shard's file, against trunk and greedy decoding alone.

    The reference takes photographs that are decoded already, one by one.
    """
    from scripts.batch import inputs, plan, shard, tasks

    folder = TemporaryDirectory()
    asked = {**_BATCHES["caption"][1], "layer": None, "beam": 1, "methods": []}
    size, threads = tasks.batch_size("caption", "cpu"), torch.get_num_threads()
    how = {"device": "cpu", "batch": size, "decoders": 2, "threads": threads}
    task = tasks.Captions(asked, "cpu")
    made = plan.Plan(folder.name, "caption", tasks.LOADER, asked, task.about, how=how)
    made = plan.prepared(made, inputs.sources([str(SAMPLES)]), 1000)
    images = [task.captioner.network.preprocessing(open_image(path)) for path in sorted(SAMPLES.glob("*.jpg"))]

    def bare() -> Any:
        return [task.captioner.caption(task.captioner.encode(image)) for image in images]

    def ours() -> Any:
        return shard.explain_shard(made, 0), folder  # which lives as long as the row does

    title = f"batch caption without maps, {len(images)} photographs, over trunk and greedy decoding alone"
    return Work(title, "1.11", bare, {OURS: ours}, slow=True)


# To add a row, add a function that makes its Work.
ROWS: dict[str, Callable[[Bench], Work]] = {
    "gradcam-1": partial(gradcam_row, what="one target, batch 1", reach="1.05"),
    "gradcam-16": partial(gradcam_row, what="one target, batch 16", reach="1.05", batch=16, slow=True),
    "classes": partial(
        gradcam_row, what="20 classes of one image", reach="1.15", classes=range(0, 1000, 50), slow=True
    ),
    "guided": guided_backprop,
    "occlusion": occlusion_windows,
    "caption": caption_words,
    "vqa": vqa_answers,
    **{name: partial(variant, name=name) for name in CAMS},
    **{f"batch-{task}": partial(batch, task=task) for task in _BATCHES},
    "batch-bare": batch_bare,
}
