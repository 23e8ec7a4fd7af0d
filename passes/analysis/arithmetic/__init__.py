"""The arithmetic of quantized networks on integers: one record a network, read by whatever lowers it."""
