"""What a chat model reads around the image and the question, and how its replies are written in tokens.

A question goes into the model's chat template, with one placeholder for the image. `Prompts.read` gives its tokens and
the question's words among them; where the image is known, its own tokens take the placeholder's place (`Splice`).

N image tokens.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.chat.families import Family
from common.errors import UserError
from common.text import Text, check_length, spelled

_PROBE, _REPLY = "What is this?", "Saywhy"


@dataclass(frozen=True)
class Splice:
    """What stands for an image in a prompt's tokens: `image` instead of `placeholder`, behind `before`."""

    before: tuple[int, ...]
    placeholder: tuple[int, ...]
    image: tuple[int, ...]

    @staticmethod
    def between(short: Sequence[int], long: Sequence[int]) -> "Splice":
        """The one between a prompt with a placeholder and the same with an image's tokens."""
        start = _common(short, long)
        end = _common(short[start:][::-1], long[start:][::-1])
        return Splice(
            tuple(short[:start]), tuple(short[start : len(short) - end]), tuple(long[start : len(long) - end])
        )

    def __call__(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """A prompt's tokens with the image's in the place of the placeholder."""
        start = len(self.before)
        stop = start + len(self.placeholder)
        if tuple(prompt[:stop]) != (*self.before, *self.placeholder):
            raise UserError("the chat template puts other text before the image than it did for another question")
        return (*prompt[:start], *self.image, *prompt[stop:])


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    same = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same += 1
    return same


class Prompts:
    """The prompts of one model; `name` is what errors call it."""

    def __init__(self, processor: Any, family: Family, name: str) -> None:
        if not hasattr(processor, "tokenizer"):
            raise UserError(f"{name}: processor_config.json names no processor of images and text; copy it again")
        self.processor, self.tokenizer, self.family, self.name = processor, processor.tokenizer, family, name
        if not self.tokenizer.is_fast:
            raise UserError(f"{name}: its tokenizer has no fast form (tokenizer.json); save it again with one")
        if not (family.plain or family.asks) and not getattr(processor, "chat_template", None):
            raise UserError(
                f"{name}: has no chat template, so how it is asked is not known; put the chat_template.jinja of the"
                " published model into its folder"
            )
        self.probe = self.text(_PROBE)
        self._lead = self._before_reply()

    def text(self, question: str, image: bool = True) -> str:
        """The whole prompt as the processor takes it, up to where the reply begins."""
        if self.family.asks:
            return self.family.asks.format(question)
        if self.family.plain:
            return f"{self.processor.image_token if image else ''}{question}"
        return self._templated([{"role": "user", "content": _content(question, image)}], add_generation_prompt=True)

    def read(self, question: str, image: bool = True) -> Text:
        """The prompt's tokens, with one placeholder for the image, and the question's words among them."""
        question = " ".join(question.split())
        check_length(question, "a question", 10_000)
        text = self._tokenized_text(question, image)
        found = self._tokens(text, return_offsets_mapping=True)
        start = text.rfind(question)
        if start < 0:
            raise UserError(f"{self.name}: its chat template changes the question {question[:60]!r}; ask otherwise")
        words, spans = question.split(), []
        for word in words:
            start = text.index(word, start)
            spans.append(_span(found["offset_mapping"], start, start + len(word)))
            start += len(word)
        tokens = tuple(found["input_ids"])
        if self.family.asks and image:  # the image's tokens come first, and in no text
            tokens = (self.tokenizer.convert_tokens_to_ids(str(self.processor.image_token)), *tokens)
            spans = [(first + 1, last + 1) for first, last in spans]
        return Text(tuple(words), tokens, tuple(spans), (), question)

    def inputs(self, image: Any, question: str = _PROBE) -> Any:
        """What the processor makes of an image and a question: the model's inputs, as tensors."""
        text = self.text(question)
        return self.processor(images=[image], text=[text], return_tensors="pt", **self._special(text))

    def splice(self, inputs: Any) -> Splice:
        """What stands for the image in the prompt of these inputs (those of the first question)."""
        return Splice.between(self.read(_PROBE).tokens, inputs["input_ids"][0].tolist())

    def reply(self, text: str) -> Text:
        """A reply as the model would write it: its words, and their tokens behind the prompt."""
        check_length(text, "a reply")
        before = self._tokenized_text(_PROBE, True)
        prompt, whole = self._tokens(before)["input_ids"], self._tokens(before + self._lead + text)["input_ids"]
        if whole[: len(prompt)] != prompt:  # a merge across the border: the reply by itself
            prompt, whole = [], self.tokenizer(self._lead + text, add_special_tokens=False)["input_ids"]
        return self.spelled(whole[len(prompt) :])

    def spelled(self, tokens: Sequence[int]) -> Text:
        """The words that tokens spell; special tokens are none, and belong to none."""
        return spelled(tokens, self._decoded, set(self.tokenizer.all_special_ids), self.tokenizer.unk_token_id)

    def _decoded(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _tokens(self, text: str, **options: Any) -> Any:
        return self.tokenizer(text, **self._special(text), **options)

    def _special(self, text: str) -> dict[str, bool]:
        """As `apply_chat_template` does: no second beginning of the sequence where the template has one."""
        begin = self.tokenizer.bos_token
        return {"add_special_tokens": False} if begin and text.startswith(begin) else {}

    def _tokenized_text(self, question: str, image: bool) -> str:
        text = self.text(question, image)
        if self.family.spaced:
            return re.sub(rf"({re.escape(self.processor.image_token)})(?=[^\s<])", r"\1 ", text)
        if not self.family.plain:
            return text
        mark = self.processor.image_token if image else ""
        return f"{mark}{self.tokenizer.bos_token or ''}{text.removeprefix(mark)}\n"

    def _templated(self, messages: list[dict[str, Any]], **options: Any) -> str:
        try:
            return str(self.processor.apply_chat_template(messages, **options))
        except Exception as error:  # templates raise what they like
            raise UserError(f"{self.name}: its chat template failed ({' '.join(str(error).split())[:120]})") from error

    def _before_reply(self) -> str:
        """What the template puts between the prompt and a reply: a space, or nothing."""
        if self.family.plain or self.family.asks:
            return " " if self.family.asks else ""
        reply = {"role": "assistant", "content": [{"type": "text", "text": _REPLY}]}
        try:
            whole = self._templated([{"role": "user", "content": _content(_PROBE, True)}, reply])
        except UserError:
            return ""
        before, found, _ = whole.removeprefix(self.probe).partition(_REPLY)
        return before if found and whole.startswith(self.probe) and not before.strip() else ""


def _content(question: str, image: bool) -> list[dict[str, str]]:
    asked = {"type": "text", "text": question}
    return [{"type": "image"}, asked] if image else [asked]


def _span(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> tuple[int, int]:
    """The tokens first..last that spell the letters start..stop."""
    inside = [number for number, (a, b) in enumerate(offsets) if a < stop and b > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)
