"""What one training run is: numerics (models, objectives, perturbations, metrics) and its loop."""
