"""Evaluation of continual learning: accuracy matrix, accuracy, transfer, forgetting, and the HTML report."""
