"""Filling a search deployment from a storage, proving it, and choosing what searches see."""
