"""Ways of reaching people, one file each."""
