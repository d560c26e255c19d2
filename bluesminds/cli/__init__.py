"""The command line, one file per noun. It parses options, calls the operator API and prints the response."""
