"""What registered models are called, and how a version of one is named on the command line."""

import re

_NAME = r"[A-Za-z0-9._-]+"
MODEL_NAME = re.compile(_NAME)
"""The name of a registered model."""
MODEL_URI = re.compile(rf"models:/(?P<name>{_NAME})(/(?P<version>[1-9]\d{{0,17}})|@(?P<alias>{_NAME}))")
"""`models:/NAME/VERSION` or `models:/NAME@ALIAS`."""
