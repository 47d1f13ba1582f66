"""Notebooks that pytest executes fail where a finding differs from the model's record."""

import os

os.environ.setdefault("TUTORIAL_FINDINGS", "strict")
