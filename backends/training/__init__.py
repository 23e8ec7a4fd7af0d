"""Training on the torch executor: retraining, distillation, learned corrections and rounding."""
