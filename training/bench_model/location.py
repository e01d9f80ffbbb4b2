"""Where the committed weights lie. They travel with the package, so an installed copy has them too."""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights")  # a directory in the Hugging Face layout
