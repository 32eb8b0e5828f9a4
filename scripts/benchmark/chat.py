"""python -m scripts.benchmark.chat [--words N] [--rounds N] [--model hf:FOLDER]

What explaining the reply of a chat model costs, in forward passes of its language model over the same prompt and reply:
a LLaVA with random weights (576 image tokens, a language model of 6 blocks, 256 wide), or another model, on one CPU
core. Processor time, median and quartiles of the rounds, so that other programs matter little; memory is the growth of
the process's peak over what the forward pass needs. A minute.
"""

import argparse
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from common.chat import loading
from common.chat.model import ChatModel
from common.chat.split import blocks_of, split_at
from common.gradcam import explain
from common.text import TextLogLikelihood, TextOutput

SIDE, PATCH, WIDE, BLOCKS = 336, 14, 256, 6
TEMPLATE = "{% for m in messages %}<image>{{ m['content'][1]['text'] }}{% endfor %}"


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--words", type=int, default=12, help="words of the reply (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="times each is measured (default: %(default)s)")
    parser.add_argument(
        "--model", metavar="hf:FOLDER", help="another chat model (default: a LLaVA with random weights)"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = loading.load(args.model) if args.model else toy()
    print(
        f"{sum(p.numel() for p in model.module.parameters()) / 1e6:.0f} million parameters, torch {torch.__version__}"
    )
    for name, figures in rows(model, args.words, args.rounds):
        low, middle, high = statistics.quantiles(figures, n=4)
        print(f"| {name} | {middle:.2f} ({low:.2f}-{high:.2f}) |")
    return 0


def rows(model: ChatModel, words: int, rounds: int) -> Any:
    """(what is done, ratios to the forward pass of the same round) of each way."""
    forward, ways = _ways(model, words)
    forward()
    gc.collect()
    before = _peak()
    for name, way in ways.items():
        way()  # warms up
        figures = []
        for _ in range(rounds):
            reference = _seconds(forward)
            figures.append(_seconds(way) / reference)
        yield name, figures
    print(f"peak memory over the forward pass's: {_peak() - before:.0f} MB")


def _ways(model: ChatModel, words: int) -> tuple[Callable[[], None], dict[str, Callable[[], Any]]]:
    """A forward pass of a prompt and a reply of so many words, and what is done by name."""
    sight = model.look(Image.effect_noise((400, 400), 80).convert("RGB"))
    prompt, reply = model.prompts.read("what is this?").tokens, torch.randint(3, 200, (1, words))

    def head(_: Any, tokens: torch.Tensor, query: Any = None) -> TextOutput:
        logits = model.logits(sight, tokens, [prompt], reply)
        return TextOutput.of(logits[:, None], reply[:, None], reply[:, None] >= 0)

    def forward() -> None:
        with torch.no_grad():
            head(None, sight.tokens)

    def explained(targets: int, methods: str, layer: str | None = None) -> Callable[[], Any]:
        places = [range(words), *([number] for number in range(words))][:targets]
        chosen = [TextLogLikelihood(list(each)) for each in places]
        split, pixels = split_at(model, layer, head)(sight), torch.zeros(1, 3, 8, 8)
        return lambda: explain(split, pixels, chosen, methods=methods)

    blocks = len(blocks_of(model))
    return forward, {
        "encoding the photograph": lambda: model.look(Image.new("RGB", (400, 400))),
        "HiResCAM of the reply as a whole": explained(1, "hirescam"),
        f"HiResCAM of the reply and 3 of its {words} words": explained(4, "hirescam"),
        f"HiResCAM of the reply and each of its {words} words": explained(words + 1, "hirescam"),
        "the same with Grad-CAM and LayerCAM beside it": explained(words + 1, "hirescam,gradcam,layercam"),
        f"the reply and each of its words, behind block {blocks // 2} of {blocks}": explained(
            words + 1, "hirescam", f"llm.{blocks // 2 - 1}"
        ),
        f"the same behind block {blocks - 1}": explained(words + 1, "hirescam", f"llm.{blocks - 2}"),
    }


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _peak() -> float:
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def toy() -> ChatModel:
    """A LLaVA with random weights, and a processor of bytes."""
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = hf.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", extra_special_tokens={"image_token": "<image>"}
    )
    vision = dict(
        model_type="clip_vision_model", hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=4, image_size=SIDE, patch_size=PATCH,
    )  # fmt: skip
    text = dict(
        model_type="llama", vocab_size=8000, hidden_size=WIDE, intermediate_size=4 * WIDE, num_hidden_layers=BLOCKS,
        num_attention_heads=8, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    image: Any = words.convert_tokens_to_ids("<image>")
    config: Any = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}), words,
        patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )  # fmt: skip
    return ChatModel(hf.LlavaForConditionalGeneration(config).eval(), processor, "a toy LLaVA", "random weights")


if __name__ == "__main__":
    sys.exit(main())
