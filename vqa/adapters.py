"""VQA models of the `transformers` library, explained like the project's own: `vqa.load("hf:PATH_OR_NAME")`.

ViLT (a classifier over answers; text and image share one transformer) and BLIP (generates its answer; any
answer can be scored). Letters: B images, L tokens, N answers, T targets, h,w patches, D hidden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.explainable import Explainable, HookedModel, TokenGrid
from common.images import Preprocessing
from common.networks import hub
from common.targets import Target, score_table
from vqa.answerer import Answer, Answerer, Asked, find_answer
from vqa.model import question_words
from vqa.targets import AnswerScore


class TransformersVqaNetwork:
    """What ViLT and BLIP share. Features are the images themselves: every pass runs the whole model."""

    embedding: str  # the name of the question's word embedding
    loader: str

    def __init__(
        self, module: Any, tokenizer: Any, preprocessing: Preprocessing, name: str, source: str
    ) -> None:
        self.module, self.tokenizer, self.preprocessing = module, tokenizer, preprocessing
        self.name, self.source = name, source
        self.longest = int(self.text_config().max_position_embeddings)

    def text_config(self) -> Any:
        raise NotImplementedError

    def layer_and_grid(self, tokens: int) -> tuple[str, TokenGrid]:
        raise NotImplementedError

    def speak(self, images: Tensor, tokens: Tensor, told: Any) -> Tensor:
        """Answer scores (B, N) of images and question tokens (B, L)."""
        raise NotImplementedError

    @property
    def layer(self) -> str:
        return self.layer_and_grid(1)[0]

    def read(self, question: str) -> Asked:
        question_words(question)
        words = question.split()
        found = self.tokenizer(words, is_split_into_words=True)
        ids, unknown = found["input_ids"], self.tokenizer.unk_token_id
        if len(ids) > self.longest:
            raise UserError(f"the question has {len(ids)} tokens; {self.name} reads at most {self.longest}")
        word_of = tuple(-1 if word is None else word for word in found.word_ids())
        lost = dict.fromkeys(
            words[w] for w, token in zip(word_of, ids, strict=True) if w >= 0 and token == unknown
        )
        return Asked(question, tuple(words), torch.tensor([ids]), tuple(lost), word_of)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def explainable(self, layer: str | None, asked: Asked, told: Any) -> tuple[Explainable, Tensor, bool]:
        own, grid = self.layer_and_grid(asked.tokens.shape[1])
        device = next(self.module.parameters()).device

        def forward(images: Tensor, tokens: Tensor) -> Tensor:
            return self.speak(images, tokens, told)

        return HookedModel(self.module, layer or own, grid, forward), asked.tokens.to(device), False

    def words(
        self, features: Tensor, asked: Asked, told: Any, targets: Sequence[Target], explained: Explainable
    ) -> tuple[Tensor, Tensor]:
        """Question attribution (T, L), twice: gradient times embedding, and leaving out each word (one pass each)."""
        T, tokens = len(targets), asked.tokens.to(features.device)
        with torch.enable_grad(), _leaves(self.module.get_submodule(self.embedding)) as leaves:
            scores = self.speak(features.expand(T, -1, -1, -1), tokens.expand(T, -1), told)
            own = score_table(targets, scores, T).diagonal()
            (gradient,) = torch.autograd.grad(own.sum(), leaves[0])
        each = (gradient * leaves[0]).sum(-1).detach()
        by_word = each.new_zeros(T, len(asked.words))
        for place, word in enumerate(asked.word_of):
            if word >= 0:
                by_word[:, word] += each[:, place]
        drops = torch.stack(
            [
                own.detach() - self._without(features, asked, word, told, targets)
                for word in range(len(asked.words))
            ],
            1,
        )
        return by_word, drops

    @torch.no_grad()
    def _without(
        self, features: Tensor, asked: Asked, word: int, told: Any, targets: Sequence[Target]
    ) -> Tensor:
        rest = [place for place, owner in enumerate(asked.word_of) if owner != word]
        scores = self.speak(features, asked.tokens[:, rest].to(features.device), told)
        return score_table(targets, scores, 1)[:, 0]


@contextlib.contextmanager
def _leaves(module: nn.Module) -> Iterator[list[Tensor]]:
    """The outputs of `module` inside the block, each replaced by a leaf that gradients are taken for."""
    leaves: list[Tensor] = []

    def swap(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().clone().requires_grad_())
        return leaves[-1].clone()  # what follows may work in place

    handle = module.register_forward_hook(swap)
    try:
        yield leaves
    finally:
        handle.remove()


class ViltNetwork(TransformersVqaNetwork):
    """ViLT with a VQA head. The patches are embedded here, in reading order: ViLT itself shuffles them at random,
    which changes no answer but would leave them no known place on the image."""

    embedding, loader = "vilt.embeddings.text_embeddings.word_embeddings", "ViltForQuestionAnswering"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        names: dict[int, str] = self.module.config.id2label
        self.answers = [str(names[i]) for i in sorted(names)]
        self.answer_index = {answer: i for i, answer in reversed(list(enumerate(self.answers)))}

    def text_config(self) -> Any:
        return self.module.config

    def layer_and_grid(self, tokens: int) -> tuple[str, TokenGrid]:
        # The last block's image tokens don't reach the output, which is read off the first text token: the
        # map is what the last block's attention reads.
        last = len(self.module.vilt.encoder.layer) - 1
        patch = self.module.config.patch_size
        h, w = (side // patch for side in self.preprocessing.size)
        return f"vilt.encoder.layer.{last}.layernorm_before", TokenGrid(tokens + 1, (h, w))

    def speak(self, images: Tensor, tokens: Tensor, told: Any = None) -> Tensor:
        embedded = self.embed(images)
        ones = torch.ones(embedded.shape[:2], dtype=torch.long, device=images.device)
        return self.module(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), image_embeds=embedded, pixel_mask=ones
        ).logits

    def embed(self, images: Tensor) -> Tensor:
        """(B, 1 + h*w, D): the class token and the patches in reading order, with their positions."""
        parts = self.module.vilt.embeddings
        patches = parts.patch_embeddings(images)
        side = self.module.config.image_size // self.module.config.patch_size
        places = parts.position_embeddings
        grid = places[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        patches = patches + F.interpolate(grid, size=patches.shape[-2:], mode="bilinear", align_corners=True)
        first = (parts.cls_token + places[:, :1]).expand(len(images), -1, -1)
        return torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)

    def best(self, features: Tensor, asked: Asked, top: int) -> list[Answer]:
        scores = self.speak(features, asked.tokens.to(features.device))[0]
        shares = scores.softmax(0)
        order = scores.argsort(descending=True, stable=True)[:top].tolist()
        return [Answer(self.answers[i], float(scores[i]), float(shares[i])) for i in order]

    def targets(self, answers: Sequence[str]) -> tuple[list[Target], Any]:
        numbers = [find_answer(answer, self.answer_index) for answer in answers]
        return [AnswerScore(number, self.answers[number]) for number in numbers], None


class BlipNetwork(TransformersVqaNetwork):
    """BLIP-VQA: the score of an answer is the log-probability of its words and its end."""

    embedding, loader = "text_encoder.embeddings.word_embeddings", "BlipForQuestionAnswering"

    def text_config(self) -> Any:
        return self.module.config.text_config

    def layer_and_grid(self, tokens: int) -> tuple[str, TokenGrid]:
        last = len(self.module.vision_model.encoder.layers) - 1
        patch = self.module.config.vision_config.patch_size
        h, w = (side // patch for side in self.preprocessing.size)
        return f"vision_model.encoder.layers.{last}", TokenGrid(1, (h, w))

    def speak(self, images: Tensor, tokens: Tensor, told: Sequence[Sequence[int]]) -> Tensor:
        config = self.text_config()
        seen = self.module.vision_model(pixel_values=images)[0]
        asked = self.module.text_encoder(input_ids=tokens, encoder_hidden_states=seen)[0]
        N, longest = len(told), max(map(len, told)) + 1
        after = [[*answer, config.sep_token_id] for answer in told]
        rows = torch.tensor(
            [[*answer, *[-1] * (longest - len(answer))] for answer in after], device=images.device
        )
        before = torch.cat([rows.new_full((N, 1), config.bos_token_id), rows[:, :-1].clamp(min=0)], 1)
        B = len(images)
        logits = (
            self.module.text_decoder(
                input_ids=before.repeat(B, 1),
                encoder_hidden_states=asked.repeat_interleave(N, 0),
                use_cache=False,
            )
            .logits.float()
            .log_softmax(-1)
        )
        rows = rows.repeat(B, 1)
        chosen = logits.gather(-1, rows.clamp(min=0)[..., None])[..., 0]
        return (chosen * (rows >= 0)).sum(1).view(B, N)

    def best(self, features: Tensor, asked: Asked, top: int) -> list[Answer]:
        tokens = asked.tokens.to(features.device)
        with hub._quiet(self.name, offline=True):
            rows = self.module.generate(
                input_ids=tokens,
                pixel_values=features,
                attention_mask=torch.ones_like(tokens),
                num_beams=max(top, 3),
                num_return_sequences=top,
                max_new_tokens=10,
                do_sample=False,
            )
        texts = [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows.tolist()]
        texts = [text for text in dict.fromkeys(texts) if text]
        if not texts:
            raise UserError(f"{self.name} gave an empty answer; name an answer to explain")
        scores = self.speak(features, tokens, self._ids(texts))[0]
        order = scores.argsort(descending=True, stable=True).tolist()
        return [Answer(texts[i], float(scores[i]), float(scores[i].exp())) for i in order]

    def targets(self, answers: Sequence[str]) -> tuple[list[Target], Any]:
        return [AnswerScore(i, answer) for i, answer in enumerate(answers)], self._ids(answers)

    def _ids(self, answers: Sequence[str]) -> list[list[int]]:
        found = [list(self.tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers]
        for answer, ids in zip(answers, found, strict=True):
            if not ids:
                raise UserError(f"the answer {answer!r} is empty; name one of at least a word")
        return found


FAMILIES: dict[str, type[TransformersVqaNetwork]] = {"vilt": ViltNetwork, "blip": BlipNetwork}


def load(name: str, device: str | torch.device = "cpu", layer: str | None = None) -> Answerer:
    """The `transformers` VQA model in a folder, in the local cache or on the model hub; `name` as `hf:NAME` or `NAME`.

    Raises `UserError` where it cannot be had, is of another kind, or has incomplete weights.
    """
    name = name.removeprefix("hf:")
    loaders = {kind: family.loader for kind, family in FAMILIES.items()}
    found = hub.transformers_pretrained(name, loaders, "VQA models")
    network: Any = FAMILIES[found.family](
        found.module.to(device), found.tokenizer, found.preprocessing, f"hf:{name}", found.source
    )
    return Answerer(network, layer)
