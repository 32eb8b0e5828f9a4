"""A model that costs nothing, for tests of batches: photographs are any bytes, and their rows say what they were."""

import hashlib
import os
import signal
import struct
import time

from common.errors import UserError
from scripts.batch.plan import Plan, prepared

LOADER = "tests.stub:load"


class Stub:
    """Each photograph takes `seconds`; bytes that say so are broken, too much for the model, or kill the process.

    Those of `once FILE` kill it as long as there is no such file, and make it.
    """

    about = {"name": "stub", "layer": "none", "weights": "none", "versions": {}}

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def prepare(self, data, item):
        if data.startswith(b"broken"):
            raise UserError(f"{item.key}: the image is broken")
        return data

    def explain(self, samples):
        if any(sample.startswith(b"heavy") for sample in samples):
            raise RuntimeError("out of memory")
        rows = []
        for sample in samples:
            time.sleep(self.seconds)
            if sample.startswith(b"killer"):
                os.kill(os.getpid(), signal.SIGKILL)
            if sample.startswith(b"once ") and not os.path.exists(sample[5:]):
                open(sample[5:], "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            map_ = {"data": struct.pack("<4e", *range(4)), "shape": [1, 2, 2], "scale": 1.0}
            text = hashlib.md5(sample).hexdigest()
            rows.append({"text": text, "names": ["all"], "scores": [len(sample)], "maps": {"gradcam": map_}})
        return rows


def load(task, asked, how):
    if asked.get("loads") == "not":
        os.kill(os.getpid(), signal.SIGKILL)
    if asked.get("loads") == "wrong":
        raise KeyError("weights")
    return Stub(asked.get("seconds", 0.0))


def plan_of(out, sources, shard_size=None, seconds=0.0, **asked):
    given = {"methods": ["gradcam"], "seconds": seconds, **asked}
    return prepared(Plan(str(out), "stub", LOADER, given, Stub.about), sources, shard_size)
