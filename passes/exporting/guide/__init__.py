"""The network in the guide: what the integer reference does, step by step, and the arrays that it needs."""
