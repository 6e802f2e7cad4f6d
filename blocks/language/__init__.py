"""The language model: rotary positions, attention with its cache, decoder."""
