"""What the methods are called, and what kind of map each gives: for help texts and pictures, without PyTorch."""

# Name in the API, on the command line and in files -> (name in pictures, kind of map).
# 'evidence' is not negative, 'against' is evidence against the target, 'signed' raises and lowers the score,
# 'gradient' has the image's resolution and channels.
METHOD_NAMES: dict[str, tuple[str, str]] = {
    "gradcam": ("Grad-CAM", "evidence"),
    "counterfactual": ("Counterfactual", "against"),
    "cam": ("CAM", "signed"),
    "activation": ("Activation energy", "evidence"),  # the same for every target: what maps have to beat
    "guided": ("Guided Backprop", "gradient"),
    "deconv": ("Deconvolution", "gradient"),
    "gradient": ("Gradient", "gradient"),
    "guided_gradcam": ("Guided Grad-CAM", "gradient"),
    "deconv_gradcam": ("Deconv Grad-CAM", "gradient"),
    "occlusion": ("Occlusion", "signed"),
    "hirescam": ("HiResCAM", "evidence"),
    "layercam": ("LayerCAM", "evidence"),
    "xgradcam": ("XGrad-CAM", "evidence"),
    "gradcam_plus_plus": ("Grad-CAM++", "evidence"),
    "ablation_cam": ("Ablation-CAM", "evidence"),
    "integrated_gradients": ("Integrated gradients", "signed"),
    "token_occlusion": ("Token occlusion", "signed"),
    # Grad-CAM with one thing changed (paper, appendix B).
    "no_relu": ("Grad-CAM before its ReLU", "signed"),
    "absolute": ("Grad-CAM, absolute gradients", "evidence"),
    "summed": ("Grad-CAM, summed gradients", "evidence"),
    "max_pooled": ("Grad-CAM, max-pooled gradients", "evidence"),
    "guided_relu": ("Grad-CAM, guided ReLU", "evidence"),
    "deconv_relu": ("Grad-CAM, deconv ReLU", "evidence"),
}


def label(method: str) -> str:
    """What a method is called in pictures; one that is not in the table goes by its own name."""
    return METHOD_NAMES[method][0] if method in METHOD_NAMES else method.replace("_", " ")


def kind(method: str) -> str:
    """The kind of map a method gives; 'signed' for one that is not in the table, which covers all heatmaps."""
    return METHOD_NAMES[method][1] if method in METHOD_NAMES else "signed"
