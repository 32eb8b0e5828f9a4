"""PASCAL's XML, in which VOC, ILSVRC and Flickr30k Entities write down their boxes, in pixels."""

import xml.etree.ElementTree as ElementTree

from common.errors import UserError
from data.readers.files import AnyPath
from data.records import Box, Instance


def read_xml(path: AnyPath) -> ElementTree.Element:
    """The root of an XML file."""
    try:
        return ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing; give a whole copy of the annotations") from None
    except ElementTree.ParseError as error:
        raise UserError(f"{path}:{error.position[0]}: broken XML ({error}); copy the file again") from error
    except (OSError, ValueError, LookupError) as error:  # of the file, or an encoding that nobody knows
        raise UserError(f"{path}: cannot be read ({error}); copy the file again") from error


def xml_box(item: ElementTree.Element, root: ElementTree.Element, path: AnyPath, first_pixel: int = 0) -> Box | None:
    """The `<bndbox>` of an object in PASCAL's XML, divided by the file's own `<size>`; None without one."""
    box = item.find("bndbox")
    if box is None:
        return None
    edges = [_number(box, side, path) for side in ("xmin", "ymin", "xmax", "ymax")]
    size = [_number(root, f"size/{side}", path) for side in ("width", "height")]
    return Box.of_pixels(edges, size, str(path), first_pixel)


def read_instances(path: AnyPath, first_pixel: int = 0) -> tuple[Instance, ...]:
    """The objects of an annotation in PASCAL's XML (VOC, ILSVRC)."""
    root = read_xml(path)
    found = []
    for item in root.findall("object"):
        name, box = item.findtext("name"), xml_box(item, root, path, first_pixel)
        if not name or box is None:
            raise UserError(f"{path}: an <object> has no <name> or no <bndbox>; copy the file again")
        difficult = item.findtext("difficult", "0").strip() == "1"
        found.append(Instance(name.strip(), box, difficult=difficult))
    return tuple(found)


def _number(root: ElementTree.Element, name: str, path: AnyPath) -> float:
    text = root.findtext(name)
    try:
        return float(text or "")
    except ValueError:
        raise UserError(f"{path}: <{name}> is '{text}'; expected a number") from None
