"""Tiny chat models of `transformers` with random weights, saved with their processors as a user's folder has them."""

import timm
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SIDE, PATCH, WIDE = (
    28,
    7,
    16,
)  # of the vision towers' images and patches, in pixels; of the language models, in channels
SPECIAL = {
    "image_token": "<image>", "video_token": "<video>", "boi_token": "<boi>", "eoi_token": "<eoi>",
    "vision_bos_token": "<vs>", "vision_eos_token": "<ve>", "fake_image_token": "<fake>",
    "global_image_token": "<global-img>", "end_of_utterance_token": "<eou>", "start_image_token": "<img>",
    "end_image_token": "</img>", "image_boundary_token": "<fake>", "context_image_token": "<context>",
}  # fmt: skip
ROWS = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = ["dog", "cat", "the", "is", "what", "a", "red"]


def tokenizer():
    """Bytes, and a few words with a space before them: letters beyond ASCII are several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = {letter: number for number, letter in enumerate(alphabet)}, []
    for word in WORDS:
        left = "Ġ"
        for letter in word:
            if left + letter not in vocabulary:
                vocabulary[left + letter] = len(vocabulary)
                merges.append((left, letter))
            left += letter
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    found = hf.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens=SPECIAL
    )
    found.add_special_tokens({"additional_special_tokens": ROWS}, replace_extra_special_tokens=False)
    return found


def _template(mark):
    return TEMPLATE.replace("IMAGE", mark)


def _text(words, **options):
    return {
        "vocab_size": len(words), "hidden_size": WIDE, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048, "head_dim": 8,
        "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
        **options,
    }  # fmt: skip


def _vision(kind, **options):
    return {
        "model_type": kind, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH, **options,
    }  # fmt: skip


def _edges(**options):
    return dict(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, **options)


def llava(words):
    config = hf.LlavaConfig(
        vision_config=_vision("clip_vision_model"), text_config=_text(words, model_type="llama"),
        image_token_index=words.image_token_id, vision_feature_layer=-1,
    )  # fmt: skip
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessor(**_edges()), words, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=_template("<image>"),
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config), processor


def fast_vlm(words):
    # A convolutional tower of 4 x 4 positions.
    config = hf.FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper", "architecture": "test_efficientnet", "hidden_size": 256, "do_pooling": False,
            "model_args": {},
        },
        text_config=_text(words, model_type="llama"), image_token_index=words.image_token_id,
    )  # fmt: skip
    size = {"height": 128, "width": 128}
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessor(size=size, do_center_crop=False), words, patch_size=32,
        vision_feature_select_strategy="full", chat_template=_template("<image>"),
    )  # fmt: skip
    model = hf.FastVlmForConditionalGeneration(config)
    tower = model.model.vision_tower.timm_model
    tower.load_state_dict(timm.create_model("test_efficientnet", num_classes=0).state_dict())  # as timm starts it
    with torch.no_grad():
        tower.train()(torch.rand(16, 3, 128, 128) * 4 - 2)  # for the means and spreads of its batch norms
        tower.eval()
    return model, processor


def llava_next(words):
    grid = [[28, 56], [56, 28], [56, 56], [28, 84], [84, 28]]
    config = hf.LlavaNextConfig(
        vision_config=_vision("clip_vision_model"), text_config=_text(words, model_type="llama"),
        image_token_index=words.image_token_id, vision_feature_layer=-1, image_grid_pinpoints=grid,
    )  # fmt: skip
    processor = hf.LlavaNextProcessor(
        hf.LlavaNextImageProcessor(**_edges(), image_grid_pinpoints=grid), words, patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=_template("<image>"),
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config), processor


def llava_onevision(words):
    grid = [[28, 56], [56, 28], [56, 56], [28, 84], [84, 28]]
    size = {"height": SIDE, "width": SIDE}
    config = hf.LlavaOnevisionConfig(
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        text_config=_text(words, model_type="qwen2"), image_token_index=words.image_token_id,
        video_token_index=words.video_token_id, image_grid_pinpoints=grid, vision_aspect_ratio="anyres_max_2",
        vision_feature_layer=-1,
    )  # fmt: skip
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid), words,
        hf.LlavaOnevisionVideoProcessor(size=size), num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full", chat_template=_template("<image>"), vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def _qwen(words, config, model, processor, video, vision, **options):
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0, **options.pop("rope", {})}
    made = config(
        vision_config={
            "depth": 3, "num_heads": 2, "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "intermediate_size": 24, **vision,
        },
        text_config=_text(words, rope_parameters=rope, **options), image_token_id=words.image_token_id,
        video_token_id=words.video_token_id, vision_start_token_id=words.vision_bos_token_id,
        vision_end_token_id=words.vision_eos_token_id,
    )  # fmt: skip
    pixels = dict(patch_size=7, temporal_patch_size=2, merge_size=2, min_pixels=28 * 28, max_pixels=56 * 56)
    template = _template("<vs><image><ve>")
    return model(made), processor(hf.Qwen2VLImageProcessor(**pixels), words, video(), chat_template=template)


def qwen2_vl(words):
    vision = {"embed_dim": 16, "hidden_size": WIDE}
    return _qwen(
        words,
        hf.Qwen2VLConfig,
        hf.Qwen2VLForConditionalGeneration,
        hf.Qwen2VLProcessor,
        hf.Qwen2VLVideoProcessor,
        vision,
    )


def qwen2_5_vl(words):
    # Windows of one merged token: its last hidden states are in another order than the pooled output.
    vision = {"hidden_size": 16, "out_hidden_size": WIDE, "window_size": 28, "fullatt_block_indexes": [2]}
    return _qwen(
        words, hf.Qwen2_5_VLConfig, hf.Qwen2_5_VLForConditionalGeneration, hf.Qwen2_5_VLProcessor,
        hf.Qwen2VLVideoProcessor, vision,
    )  # fmt: skip


def qwen3_vl(words):
    vision = {
        "hidden_size": 16, "out_hidden_size": WIDE, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16,
    }  # fmt: skip
    return _qwen(
        words,
        hf.Qwen3VLConfig,
        hf.Qwen3VLForConditionalGeneration,
        hf.Qwen3VLProcessor,
        hf.Qwen3VLVideoProcessor,
        vision,
    )


def qwen3_5(words):
    vision = {"hidden_size": 16, "out_hidden_size": WIDE, "num_position_embeddings": 16}
    return _qwen(
        words, hf.Qwen3_5Config, hf.Qwen3_5ForConditionalGeneration, hf.Qwen3VLProcessor, hf.Qwen3VLVideoProcessor,
        vision, rope={"partial_rotary_factor": 1.0}, layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2,
    )  # fmt: skip


def paligemma(words):
    images = hf.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = (SIDE // PATCH) ** 2
    processor = hf.PaliGemmaProcessor(images, words)
    config = hf.PaliGemmaConfig(
        vision_config=_vision("siglip_vision_model", vision_use_head=False, projection_dim=WIDE),
        text_config=_text(words, model_type="gemma"), image_token_index=words.image_token_id, projection_dim=WIDE,
        tie_word_embeddings=False,
    )  # fmt: skip
    return hf.PaliGemmaForConditionalGeneration(config), processor


def gemma3(words):
    images = hf.Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    config = hf.Gemma3Config(
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        text_config=_text(words, sliding_window=512, layer_types=["sliding_attention", "full_attention"]),
        mm_tokens_per_image=4, boi_token_index=words.boi_token_id, eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
    )  # fmt: skip
    processor = hf.Gemma3Processor(images, words, chat_template=_template("<boi>"), image_seq_length=4)
    return hf.Gemma3ForConditionalGeneration(config), processor


def _idefics3(words, config, model):
    return model(
        config(
            vision_config=_vision("", **{"model_type": config.sub_configs_defaults["vision_config"].model_type}),
            text_config=_text(words, model_type="llama"), image_token_id=words.image_token_id, scale_factor=2,
        )
    )  # fmt: skip


def idefics3(words):
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 84}, max_image_size={"longest_edge": SIDE})
    processor = hf.Idefics3Processor(images, words, image_seq_len=4, chat_template=_template("<image>"))
    return _idefics3(words, hf.Idefics3Config, hf.Idefics3ForConditionalGeneration), processor


def smolvlm(words):
    images = hf.SmolVLMImageProcessor(size={"longest_edge": 84}, max_image_size={"longest_edge": SIDE})
    processor = hf.SmolVLMProcessor(
        images, words, hf.SmolVLMVideoProcessor(), image_seq_len=4, chat_template=_template("<image>")
    )
    return _idefics3(words, hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration), processor


def internvl(words):
    images = hf.GotOcr2ImageProcessor(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=6
    )
    config = hf.InternVLConfig(
        vision_config=_vision("internvl_vision", layer_scale_init_value=1.0),
        text_config=_text(words, model_type="qwen2"), image_token_id=words.context_image_token_id, image_seq_length=4,
    )  # fmt: skip
    processor = hf.InternVLProcessor(
        images, words, hf.InternVLVideoProcessor(), image_seq_length=4, chat_template=_template("<context>")
    )
    return hf.InternVLForConditionalGeneration(config), processor


def idefics2(words):
    images = hf.Idefics2ImageProcessor(size={"shortest_edge": 28, "longest_edge": 70})
    processor = hf.Idefics2Processor(images, words, image_seq_len=3, chat_template=_template("<image>"))
    vision = _vision("idefics2_vision", image_size=70)
    del vision["model_type"]
    config = hf.Idefics2Config(
        vision_config=vision, text_config=_text(words, model_type="mistral"), image_token_id=words.image_token_id,
        perceiver_config={
            "hidden_size": WIDE, "resampler_n_latents": 3, "resampler_depth": 1, "resampler_n_heads": 2,
            "resampler_head_dim": 8, "num_key_value_heads": 1,
        },
    )  # fmt: skip
    return hf.Idefics2ForConditionalGeneration(config), processor


def blip2(words):
    text = {
        "model_type": "opt", "vocab_size": len(words), "hidden_size": WIDE, "ffn_dim": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 512, "word_embed_proj_dim": WIDE,
        "bos_token_id": words.eos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip
    config = hf.Blip2Config(
        vision_config={**_vision("blip_2_vision_model"), "num_hidden_layers": 2},
        qformer_config={
            "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 24, "encoder_hidden_size": 16, "cross_attention_frequency": 1,
        },
        text_config=text, num_query_tokens=4, image_token_index=words.image_token_id,
    )  # fmt: skip
    images = hf.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    plain = hf.PreTrainedTokenizerFast(  # the processor takes no tokenizer with an image token of its own
        tokenizer_object=words.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )  # fmt: skip
    return hf.Blip2ForConditionalGeneration(config), hf.Blip2Processor(images, plain, num_query_tokens=4)


MAKERS = {
    "llava": llava, "fast_vlm": fast_vlm,
    "qwen2_vl": qwen2_vl, "qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl, "qwen3_5": qwen3_5,
    "paligemma": paligemma, "gemma3": gemma3, "llava_next": llava_next, "llava_onevision": llava_onevision,
    "idefics3": idefics3, "smolvlm": smolvlm, "internvl": internvl, "idefics2": idefics2, "blip-2": blip2,
}  # fmt: skip


def saved(kind, folder, dtype=torch.float32):
    """A model of this kind and its processor, in a folder."""
    torch.manual_seed(0)
    model, processor = MAKERS[kind](tokenizer())
    with torch.no_grad():  # the usual initial weights are so small that the image hardly matters
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.3)
            elif parameter.dim() > 1 and not any(part in name for part in ("position", "timm_model")):
                parameter.mul_(4)
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
