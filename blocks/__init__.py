"""What an operation becomes: plain torch modules that know nothing of recipes."""
