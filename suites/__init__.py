"""The built-in suites, one YAML file each."""
