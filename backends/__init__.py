"""Lowered module to executable to artefact; training and generation run on executables."""
