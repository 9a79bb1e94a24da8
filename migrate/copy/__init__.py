"""Copying object versions from one storage to another, proving it, and purging the old."""
