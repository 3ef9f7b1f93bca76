"""Built-in defenses, one file each."""
