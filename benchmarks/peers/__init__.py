"""Target 3: this project against torchdistill and torch-uncertainty, side by side."""
