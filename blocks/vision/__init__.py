"""Vision towers: patches, attention inside segments, encoders."""
