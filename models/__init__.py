"""Weights that this project trained, each with its model card."""
