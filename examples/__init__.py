"""Recipes that train with icasa, one folder for each task."""
