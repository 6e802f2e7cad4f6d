"""What an editor asks about recipes while they are being written: one file a question."""
