"""How the embedded model `tutorial-4l` was made: `corpus` -> `train` -> `evaluate`."""
