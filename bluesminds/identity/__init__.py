"""Ways of proving who you are, one file each."""
