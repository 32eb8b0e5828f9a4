"""The training of the trunk that the captioner and the VQA model read: what is in a photograph, and how many.

The trunk itself is `common.networks.trunk.SeeingTrunk`; here is how it is taught classes, words and counts of whole
photographs. Where in a photograph a thing is, it is never told.
"""
