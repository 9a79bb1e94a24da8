"""Re-keying in place: every version of a storage comes under another key, and its bytes go nowhere."""
