"""Evaluating what was learned along a task order: the accuracy matrix and what is read from it."""
