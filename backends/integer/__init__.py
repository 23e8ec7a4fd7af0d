"""The integer reference: what a quantized network computes, on integers, in numpy."""
