"""The papers' systems, composed of parts."""
