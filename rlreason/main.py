"""The command line: flags and sub-commands only. Each is a thin wrapper over one function."""
