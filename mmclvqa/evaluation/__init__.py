"""Evaluation of continual learning: accuracy matrix, accuracy, transfer, forgetting, and the report page."""
