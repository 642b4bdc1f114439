"""What one stage does on its ranks: data, training, constraints, checkpoints, artefacts.

Importing this package loads nothing heavy; `stages.training.stage` is where torch comes in.
"""
