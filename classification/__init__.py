"""Explaining image classifiers."""

from classification.classifier import Classifier, Prediction, load
from classification.labels import Labels, imagenet
from classification.targets import ClassLogit

__all__ = ["ClassLogit", "Classifier", "Labels", "Prediction", "imagenet", "load"]
