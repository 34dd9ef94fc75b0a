"""Analyses of trained models and of their cost; each leaves one table and one page."""
