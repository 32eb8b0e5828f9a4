"""The captions of Flickr30k, `results_20130124.token`, without the photographs (Young et al. 2014)."""

from pathlib import Path

from data.readers import flickr8k
from data.readers.files import AnyPath
from data.records import CaptionedText


def read_texts(path: AnyPath) -> list[CaptionedText]:
    """The captions by photograph, in the order of the file: `<image>#<number><TAB><caption>` a line."""
    captions = flickr8k.read_captions(path)
    return [CaptionedText(f"flickr30k:{Path(name).stem}", tuple(these)) for name, these in captions.items()]
