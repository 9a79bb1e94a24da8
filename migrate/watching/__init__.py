"""The watch over customers' keys: look, tell the causes apart, remember, decide, act. One file each."""
