"""A small chat model of `transformers`' own classes on the trunk: FastVLM, a LLaVA whose tower is convolutional.

    model, processor = build(trunk, texts, settings)
    model.save_pretrained(folder), processor.save_pretrained(folder)      # plain transformers loads it again

The tower is `timm`'s EfficientNet-Lite in `transformers`' wrapper, with the trunk's weights; its last map, of h x w
positions, is the image's tokens. Projector and language model (Llama's blocks) start at random, but for the projector's
first layer: it looks where the trunk's evidence of concepts does.

K channels of the trunk's map, D width of the language model, n = h*w image tokens.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.networks.trunk import SeeingTrunk
from scripts.chat.settings import Settings

IMAGE, ASKED, ANSWERED, END, PAD = "<image>", "<|user|>", "<|assistant|>", "</s>", "<pad>"
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build(trunk: SeeingTrunk, texts: Iterable[str], settings: Settings) -> tuple[Any, Any]:
    """(model, processor) with `trunk` as its tower and a vocabulary made of `texts`."""
    import transformers as hf

    words, grid = tokenizer(texts, settings.vocabulary), _grid(trunk)
    processor = _processor(trunk, words, grid[0])
    config = hf.FastVlmConfig(
        vision_config=_vision(trunk), text_config=_text(words, settings), image_token_index=words.image_token_id,
        image_seq_length=math.prod(grid),
    )  # fmt: skip
    model = hf.FastVlmForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    put_trunk(model, trunk)
    return model, processor


def put_trunk(model: Any, trunk: SeeingTrunk) -> None:
    """The trunk's weights into the model's tower."""
    model.model.vision_tower.timm_model.load_state_dict(trunk.network.state_dict())


def tokenizer(texts: Iterable[str], size: int) -> Any:
    """A byte-level BPE tokenizer of lower-cased texts, with the words that mark turns and images."""
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = [PAD, END, IMAGE, ASKED, ANSWERED]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, extra_special_tokens={"image_token": IMAGE}
    )


def _processor(trunk: SeeingTrunk, words: Any, rows: int) -> Any:
    """For photographs as the trunk sees them; `rows` of image tokens."""
    import transformers as hf

    made = trunk.preprocessing
    height, width = made.size
    if height != width:
        raise UserError(f"a chat model's tower sees a square; the trunk sees {height}x{width} pixels")
    images = hf.CLIPImageProcessor(
        size={"height": height, "width": width}, do_center_crop=False, image_mean=list(made.mean),
        image_std=list(made.std),
    )  # fmt: skip
    return hf.LlavaProcessor(
        images, words, patch_size=height // rows, vision_feature_select_strategy="full", chat_template=TEMPLATE
    )


def _vision(trunk: SeeingTrunk) -> dict[str, Any]:
    network: Any = trunk.network
    architecture = getattr(network, "default_cfg", {}).get("architecture")
    if architecture is None or trunk.map_layer is not None:
        raise UserError(f"a chat model's tower is a network of timm with a last map; the trunk is {trunk.source}")
    return {
        "model_type": "timm_wrapper", "architecture": architecture, "hidden_size": trunk.channels,
        "do_pooling": False, "model_args": {}, "image_size": trunk.preprocessing.size[0],
    }  # fmt: skip


def _text(words: Any, settings: Settings) -> dict[str, Any]:
    return {
        "model_type": "llama", "vocab_size": len(words), "hidden_size": settings.width,
        "intermediate_size": 3 * settings.width, "num_hidden_layers": settings.blocks,
        "num_attention_heads": settings.heads, "num_key_value_heads": settings.heads,
        "max_position_embeddings": 512, "tie_word_embeddings": True, "bos_token_id": None,
        "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip


def _grid(trunk: SeeingTrunk) -> tuple[int, int]:
    """(h, w) of the trunk's map."""
    with torch.no_grad():
        found = trunk.features(torch.zeros(1, 3, *trunk.preprocessing.size, device=next(trunk.parameters()).device))
    return found.shape[2], found.shape[3]


@torch.no_grad()
def look_at_evidence(model: Any, trunk: SeeingTrunk, tokens: Tensor) -> None:
    """Start the projector's first layer at the directions that tell the trunk's concepts apart, of spread 1.

    `tokens` (n,K) are some positions of photographs' maps.
    """
    layer = model.model.multi_modal_projector.linear_1
    weights = trunk.evidence.classifier.weight.flatten(1)
    _, _, directions = torch.linalg.svd(weights - weights.mean(0), full_matrices=False)
    seen = tokens.to(directions) @ directions[: len(layer.weight)].T
    spread, mean = seen.std(0).clamp(min=1e-6), seen.mean(0)
    rows = len(spread)
    layer.weight[:rows] = directions[:rows] / spread[:, None]
    layer.bias[:rows] = -mean / spread
