"""The demo on Hugging Face Spaces, which starts this file and passes what arrives to port 7860."""

import sys

from scripts.saywhy import main

sys.exit(main(["demo", "--host", "0.0.0.0", "--port", "7860"]))
