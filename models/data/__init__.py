"""Images shipped for the demo."""
