"""Classes of photographs, and why each was chosen.

A class's score is its logit. Any network that `load` knows by name will do, and any module of your own.

    >>> classifier = load()
    >>> classifier.predict("data/samples/cat.jpg", top=1)[0].label
    'Egyptian cat'
    >>> found = classifier.explain("data/samples/cat.jpg", targets=["tiger cat", "boxer"])
    >>> found.names, found.heatmaps.shape
    (('tiger cat', 'boxer'), torch.Size([2, 1, 7, 7]))
"""

from classification.classifier import Classifier, Prediction, load
from classification.labels import Labels, imagenet
from classification.targets import ClassLogit

__all__ = ["ClassLogit", "Classifier", "Labels", "Prediction", "imagenet", "load"]
